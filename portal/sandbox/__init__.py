"""A stand-in for Microsoft Entra ID and Microsoft Graph, for demonstrations, development and tests.

It runs as its own process (``python -m portal.sandbox``), listens on loopback only and needs no network. It shares no
code and no settings with the portal, which calls it over HTTP exactly as it calls Microsoft.
"""
