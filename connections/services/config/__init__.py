"""Configuration as code: export the set-up to a file, plan what a file would change, and apply it (idempotent)."""
