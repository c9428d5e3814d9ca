"""People and service accounts: accounts and sign-in, the directory, offboarding, and transfers of ownership."""
