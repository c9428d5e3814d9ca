"""Alerts: who gets which alert through which channel, and the outbox that delivers each message once."""
