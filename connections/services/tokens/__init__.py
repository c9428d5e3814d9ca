"""Access tokens: the refresh scheduler, the calls to Microsoft, and the token that an automation fetches.

No token is lost or overwritten by an older one, whatever runs twice or is killed half-way.
"""
