"""Shares and teams: who may use or manage a connection, until when, and who could in the past."""
