"""Shares and teams: who may use or manage a connection, until when, and who could at any time in the past."""
