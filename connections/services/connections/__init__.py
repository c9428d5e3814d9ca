"""Connections and their sign-ins. A sign-in stores the tokens of the right account, or changes nothing."""
