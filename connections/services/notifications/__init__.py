"""Alerts: who gets which one, over which channel, and the outbox that delivers each message once."""
