"""A program that uses the API with somebody's key."""

from __future__ import annotations

from typing import Any

from connections.models import User
from tests import factories
from tests.asgi_client import PortalClient


class Program:
    """Asks the API as ``owner``, with a key that has every scope unless ``key`` (columns of ApiKey) says otherwise."""

    def __init__(self, owner: User, *, only: list[Any] | None = None, **key: Any) -> None:
        if only is not None:
            key["only_chosen"] = True
        self.key, self.text = factories.make_key(owner, **key)
        self.key.connections.set(only or [])
        self.client = PortalClient(headers={"Authorization": f"Bearer {self.text}"})

    def get(self, path: str, **query: Any) -> Any:
        """GET /api/v1/``path``."""
        return self.client.get(f"/api/v1/{path}", query)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """``send("post", "teams", {...}, idempotency_key="x")``; headers as keywords with underscores."""
        ask = getattr(self.client, method)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(f"/api/v1/{path}", {} if body is None else body, content_type="application/json", headers=named)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST /api/v1/``path``."""
        return self.send("post", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        """PATCH /api/v1/``path``."""
        return self.send("patch", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        """DELETE /api/v1/``path``."""
        return self.send("delete", path, **headers)


def told(answer: Any) -> tuple[int, str]:
    """Status and code of a problem."""
    assert answer["Content-Type"] == "application/problem+json", answer.content
    return answer.status_code, answer.json()["code"]


def wrong_fields(answer: Any) -> set[str]:
    """The fields a 422 names."""
    assert answer.status_code == 422, answer.content
    return {one["field"] for one in answer.json()["errors"]}
