"""A stand-in for Microsoft Entra ID and Microsoft Graph, for demonstrations, development and tests.

It runs as its own process (``python -m portal.sandbox``), listens on loopback only, needs no network and shares
no code and no settings with the portal: the portal meets it over HTTP exactly as it meets Microsoft.
"""
