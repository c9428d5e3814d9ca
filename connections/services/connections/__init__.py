"""Connections themselves: create, change, disable and delete them, and sign in to them.

A sign-in or a sign-in link ends in an active connection with tokens of the right account, or changes nothing.
"""
