"""Create, change, disable and delete connections, and sign in to them.

A sign-in, with or without a link, stores the right account's tokens in an active connection or changes nothing.
"""
