"""A simulation of Microsoft Entra ID and Microsoft Graph, for demonstrations, development and tests.

It runs as a separate process (``python -m portal.sandbox``), listens on loopback only and needs no network. It shares
no code and no settings with the portal. The portal calls it over HTTP, exactly as it calls Microsoft.
"""
