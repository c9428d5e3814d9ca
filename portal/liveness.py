"""``/healthz``, handled in front of Django. It needs no thread, so it also responds while all threads are waiting."""

from __future__ import annotations

from collections.abc import Callable

from connections.api.token_endpoint import is_secure
from portal.wsgi_bridge import Receive, Scope, Send

_BODY = b"ok\n"


class Liveness:
    """The ASGI application for ``/healthz``. ``headers(is_secure)`` must return the headers that every response has."""

    def __init__(self, headers: Callable[[bool], list[tuple[bytes, bytes]]]) -> None:
        self._headers = headers

    @staticmethod
    def serves(scope: Scope) -> bool:
        return scope["path"] == "/healthz" and scope["method"] in ("GET", "HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(_BODY)).encode()),
            (b"cache-control", b"max-age=0, no-cache, no-store, must-revalidate, private"),
            *self._headers(is_secure(scope)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _BODY})
