"""Limits the size of every request body, before anything reads or stores it.

A body whose declared length is too large is rejected unread. A body that becomes too large is rejected while it
arrives.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from django.http import HttpResponse

from connections.api import problems
from connections.api.middleware import MAX_BODY, PREFIX
from portal.wsgi_bridge import Message, Receive, Scope, Send

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Bytes, by the beginning of the path; the first match applies. These forms can be sent without signing in.
_LIMITS = (
    (re.compile(r"/(sign-in|sign-out|sign-in-link|auth|healthz|readyz|metrics|static)\b"), 16 * 1024),
    (re.compile(r"/microsoft-errors\b"), 64 * 1024),  # the text of a whole page, percent-encoded
    (re.compile(re.escape(PREFIX)), MAX_BODY),
    # Certificates and their keys (connections/forms/credentials.py).
    (re.compile(r"/apps/(add|\d+/credentials/add)/"), 512 * 1024),
)
_OTHERS = 256 * 1024


class _TooLarge(Exception):
    pass


def limit_of(path: str) -> int:
    """Return the maximum number of bytes in the body of a request to ``path``."""
    return next((limit for beginning, limit in _LIMITS if beginning.match(path)), _OTHERS)


def limit_bodies(application: Application, headers: Callable[[Scope], list[tuple[bytes, bytes]]]) -> Application:
    """Wrap an ASGI application. ``headers(scope)`` must return the headers that every response has."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        limit, received = limit_of(scope["path"]), 0

        async def count() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLarge
            return message

        try:
            if _declares_more(scope, limit):
                raise _TooLarge
            await application(scope, count, send)
        except _TooLarge:
            await _refuse(scope, limit, headers(scope), send)

    return limited


def _declares_more(scope: Scope, limit: int) -> bool:
    """Whether Content-Length is more than ``limit``. Values that are not numbers are rejected elsewhere."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length" and value.isdigit()]
    return any(len(value) > 18 or int(value) > limit for value in lengths)


async def _refuse(scope: Scope, limit: int, headers: list[tuple[bytes, bytes]], send: Send) -> None:
    detail = f"At most {limit // 1024} kB."
    if scope["path"].startswith(PREFIX):
        answer = problems.problem(413, "too_large", "The body is too large.", detail)
    else:
        answer = HttpResponse(f"The request is too large. {detail}\n", status=413, content_type="text/plain")
    own = [
        (b"content-type", answer["Content-Type"].encode()),
        (b"content-length", str(len(answer.content)).encode()),
        (b"cache-control", b"no-store, private"),
        (b"connection", b"close"),  # the rest of the body is not read
    ]
    await send({"type": "http.response.start", "status": 413, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": answer.content})
