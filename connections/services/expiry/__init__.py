"""Expiration dates of credentials, API keys and sign-ins: recorded, forecast, listed, and warned of in time."""
