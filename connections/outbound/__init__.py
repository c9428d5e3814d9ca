"""Alerts as e-mails, chat cards and signed webhooks. Nothing here uses the database."""
