"""Access tokens. No token is lost or replaced by an older one, even if a job runs twice or is killed halfway."""
