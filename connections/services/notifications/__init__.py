"""Alerts: who is told about what, over which channel, and the outbox that delivers each message once."""
