"""How the cache's values stand in Redis: as JSON, because Django's default would execute what somebody wrote there."""

import json
from typing import Any


class JSONSerializer:
    """Serializes values of the cache. What is no JSON counts as missing, so a foreign value harms nobody."""

    def dumps(self, value: Any) -> str:
        return json.dumps(value)

    def loads(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None
