"""Everything that knows Microsoft; imports no models."""
