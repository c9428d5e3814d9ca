"""API keys of automations, with their rate limits and stored replies for idempotent requests."""
