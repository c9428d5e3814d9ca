"""Configuration as code: export the portal to a file, plan what a file would change, apply the plan; idempotent."""
