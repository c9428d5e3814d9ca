"""Connections and signing in to them. A sign-in stores the right account's tokens, or changes nothing."""
