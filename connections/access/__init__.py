"""The whole permission policy: roles (who asks), querysets (what they see), permissions (what they may do).

Pages, API and services ask here, and nothing else decides. Not visible means "does not exist" (404); visible but not
allowed is NotAllowed (403).
"""
