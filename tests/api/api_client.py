"""A program that calls the API with somebody's key."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from django.db import connections as databases

from connections.models import User
from tests import factories
from tests.asgi_client import PortalClient

NOT_ALLOWED = (403, "not_allowed")
NOT_FOUND = (404, "not_found")

_numbers = count(1)


class Program:
    """Calls the API as ``owner`` with a key that has every scope by default.

    ``key`` overrides columns of ApiKey, and ``only`` limits the key to these connections.
    """

    def __init__(self, owner: User, *, only: list[Any] | None = None, **key: Any) -> None:
        key.setdefault("name", f"Program {next(_numbers)}")
        self.key, self.text = factories.make_key(owner, only_chosen=only is not None, **key)
        self.key.connections.set(only or [])
        self.client = PortalClient(headers={"Authorization": f"Bearer {self.text}"})

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/v1/{path}", query)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Example: ``send("post", "teams", {...}, idempotency_key="x")``. Header names are written with underscores."""
        call = getattr(self.client, method)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return call(f"/api/v1/{path}", {} if body is None else body, content_type="application/json", headers=names)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.send("post", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        return self.send("patch", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.send("delete", path, **headers)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Return the results of calls made at the same time, each in its own thread."""
    together = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        try:
            together.wait(timeout=20)
            return call()
        finally:
            databases.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def problem(response: Any) -> tuple[int, str]:
    """Return the status and code of a problem response."""
    assert response["Content-Type"] == "application/problem+json", response.content
    return response.status_code, response.json()["code"]


def wrong_fields(response: Any) -> set[str]:
    """Return the fields named by a 422 response."""
    assert response.status_code == 422, response.content
    return {error["field"] for error in response.json()["errors"]}


def values(response: Any, field: str) -> list[Any]:
    """Return one field from every item of a list response."""
    return [item[field] for item in response.json()["items"]]
