"""Shares and teams: who can use or manage a connection, until when, and who could in the past."""
