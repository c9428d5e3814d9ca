"""Shared mailboxes, and probes that test which connections reach them."""
