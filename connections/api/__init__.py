"""The API: /api/v1/, JSON, with an OpenAPI document made from what stands here."""
