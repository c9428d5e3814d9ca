"""Tenants and app registrations with their credentials, and whether Microsoft accepts them."""
