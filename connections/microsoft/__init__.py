"""Everything that depends on how Microsoft works. Nothing here imports models."""
