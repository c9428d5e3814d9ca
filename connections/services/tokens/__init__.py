"""Access tokens: the refresh scheduler, the requests to Microsoft, and the token that an automation fetches.

No token is lost or overwritten by an older one, even if a job runs twice or is killed half-way.
"""
