"""Incidents: one per cause, opened by the first failure and resolved when things work again."""
