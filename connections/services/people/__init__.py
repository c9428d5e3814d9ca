"""People and service accounts: sign-in accounts, the directory they come from, offboarding, ownership transfer."""
