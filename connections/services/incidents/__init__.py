"""Incidents: one per cause, opened by the first failure and closed when everything works again."""
