"""Incidents: one record per cause, opened by the first failure and resolved by a later success."""
