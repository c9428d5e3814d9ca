"""Alerts as emails, chat cards and signed webhooks. Nothing here uses the database."""
