"""Shared mailboxes, and probes of which connection reaches which mailbox."""
