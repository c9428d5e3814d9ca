"""Shared mailboxes and the probes that tell which connection can really reach which mailbox."""
