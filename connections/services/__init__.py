"""Every change of state, in sixteen packages on seven floors (see docs/architecture.md)."""
