"""All access rules: roles (who the user is), querysets (what they see), permissions (what they may do).

Pages, API and services ask here, and nothing else decides. An invisible object "does not exist" (404); a visible one
that the user may not change is NotAllowed (403).
"""
