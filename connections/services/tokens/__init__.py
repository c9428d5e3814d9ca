"""Access tokens. None is lost or overwritten by an older one, even if a job runs twice or is killed halfway."""
