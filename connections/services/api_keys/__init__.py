"""API keys of automations, their rate limits, and stored replies for repeated requests."""
