"""Repeatable measurements, each run by one command."""
