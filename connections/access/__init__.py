"""All access rules: roles (who the user is), querysets (what they see), permissions (what they may do).

Pages, API and services ask here; nothing else decides. For an invisible object the answer is 404; for a visible one
that the user may not change it is NotAllowed (403).
"""
