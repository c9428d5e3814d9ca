"""The access log: one JSON object per request, without query strings.

The sign-in callback carries an authorization code in its query string, so only the path is logged. The token in the
path of a sign-in link is hidden.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache

from portal.logs import hide_links
from portal.wsgi_bridge import Message, Receive, Scope, Send

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def access_log(application: Application) -> Application:
    """Wrap an ASGI application so that each request is logged to standard output once it has been answered."""

    async def logging(scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await application(scope, receive, watch)
        finally:
            sys.stdout.write(line(scope, status, time.monotonic() - began))
            sys.stdout.flush()

    return logging


def line(scope: Scope, status: int, seconds: float) -> str:
    """Return the log line for one request. ``at`` is the time of the response."""
    client = scope["client"][0] if scope.get("client") else ""
    request = json.dumps(hide_links(f"{scope['method']} {scope['path']}"))
    milliseconds = int(seconds * 1000)
    return (
        f'{{"logger": "access", "at": "{_clock(int(time.time()))}", "from": "{client}", "request": {request}, '
        f'"status": {status}, "ms": {milliseconds}}}\n'
    )


@lru_cache(maxsize=2)
def _clock(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("[%d/%b/%Y:%H:%M:%S %z]")
