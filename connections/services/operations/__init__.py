"""What an operator watches: the health of the portal itself, and how long audit events are kept."""
