"""All access rules: roles (who the user is), querysets (what they see), permissions (what they may do).

The pages, the API and the services all ask this package. An object that the user cannot see results in a 404. An object
that they see but may not change raises NotAllowed (403).
"""
