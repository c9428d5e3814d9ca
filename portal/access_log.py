"""The access log: one JSON object per request on standard error, without query strings.

The query string of the sign-in callback contains an authorization code, so only the path is logged. The token in the
path of a sign-in link is hidden.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache

from django.conf import settings

from connections import counters
from connections.client_address import forwarded_address
from connections.counters import Key
from connections.middleware import PROBES
from portal.logs import hide_links
from portal.wsgi_bridge import Message, Receive, Scope, Send

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def access_log(application: Application) -> Application:
    """Wrap an ASGI application so that each request is counted and logged when it has been handled.

    Successful probes are logged only at DEBUG level, because there are thousands a day.
    """

    tally, lines = _Tally(), _Lines()

    async def logging(scope: Scope, receive: Receive, send: Send) -> None:
        began, status, request_id = time.monotonic(), 500, ""

        async def watch(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = _header(message.get("headers", ()), b"x-request-id")
            await send(message)

        try:
            await application(scope, receive, watch)
        finally:
            seconds = time.monotonic() - began
            tally.count(_kind(scope["path"]), str(status), seconds)
            if scope["path"] not in PROBES or status >= 400 or settings.LOG_LEVEL == "DEBUG":
                lines.write(line(scope, status, seconds, request_id))

    return logging


class _Lines:
    """Writes the lines of all requests that are handled in one turn of the event loop together.

    Each write lets other threads run, which delays the event loop by more than the write takes.
    """

    _MOST = 4096  # bytes written at a time; a pipe doesn't mix those with the lines of other processes (pipe(7))

    def __init__(self) -> None:
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        text = ""
        for line in lines:
            if len(text) + len(line) > self._MOST:
                sys.stderr.write(text)
                text = ""
            text += line
        sys.stderr.write(text)


class _Tally:
    """Counts requests, and adds the numbers to the counters about once a second.

    It is used only in the event loop, so it needs no lock.
    """

    def __init__(self) -> None:
        self._counts: dict[Key, float] = {}
        self._due = 0.0

    def count(self, kind: str, status: str, seconds: float) -> None:
        bucket, total = counters.duration_keys("portal_http_request_duration_seconds", kind, seconds=seconds)
        counts, request = self._counts, ("portal_http_requests_total", kind, status)
        counts[request] = counts.get(request, 0) + 1
        counts[bucket] = counts.get(bucket, 0) + 1
        counts[total] = counts.get(total, 0) + seconds
        if (now := time.monotonic()) >= self._due:
            self._due = now + 1
            counters.add_all(counts)
            counts.clear()


def _kind(path: str) -> str:
    if path.startswith("/api/"):
        return "token" if path.endswith("/token") else "api"
    return "probe" if path in PROBES else "page"


def line(scope: Scope, status: int, seconds: float, request_id: str = "") -> str:
    """Return the log line for one request. ``timestamp`` is the time of the response."""
    request = json.dumps(hide_links(f"{scope['method']} {scope['path']}"))
    peer = scope["client"][0] if scope.get("client") else ""
    client = forwarded_address(_header(scope.get("headers", ()), b"x-forwarded-for"), peer) or ""
    return (
        f'{{"event": {request}, "status": {status}, "ms": {int(seconds * 1000)}, "client": "{client}", '
        f'"request_id": "{request_id}", "logger": "access", "level": "info", "timestamp": "{_clock(int(time.time()))}"}}\n'
    )


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> str:
    return b",".join([value for name, value in headers if name == wanted]).decode("latin-1")


@lru_cache(maxsize=2)
def _clock(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
