"""Admin consent: the link for an administrator, the requests people make, and what Microsoft has granted."""
