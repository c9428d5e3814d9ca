"""Tenants, app registrations and credentials, and whether Microsoft accepts them."""
