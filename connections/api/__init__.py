"""The JSON API under /api/v1/. Its OpenAPI document is generated from this code."""
