"""People and service accounts: sign-in accounts, their directory, offboarding and transfers of ownership."""
