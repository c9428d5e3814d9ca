"""Access tokens: refreshing them on schedule, requesting them from Microsoft, and handing them to automations.

No token is lost or overwritten by an older one, even if a job runs twice or is killed halfway.
"""
