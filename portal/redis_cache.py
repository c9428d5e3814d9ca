"""Stores the cache's values in Redis as JSON.

Django's default format (pickle) would run code that someone has written to Redis.
"""

import json
from typing import Any


class JSONSerializer:
    """Serializes the values of the cache. A value that is not JSON counts as missing, so it does no harm."""

    def dumps(self, value: Any) -> str:
        return json.dumps(value)

    def loads(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
