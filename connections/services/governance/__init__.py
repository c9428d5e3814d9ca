"""The policy as administrators manage it, the connections that violate it, and access reviews."""
