"""Create, change, disable and delete connections, and sign in to them.

A sign-in, with or without a link, either leaves an active connection with the right account's tokens or changes
nothing.
"""
