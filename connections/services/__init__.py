"""All changes of state: sixteen packages in seven layers (see docs/architecture.md)."""
