"""Manage the policy, find connections that violate it, and review access."""
