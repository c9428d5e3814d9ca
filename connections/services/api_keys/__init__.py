"""API keys for automations, their rate limits, and stored replies for repeated requests."""
