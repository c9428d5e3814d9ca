"""Record, forecast and list the expiration dates of credentials, API keys and sign-ins, and warn people in time."""
