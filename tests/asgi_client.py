"""Django's test client for the web process: requests go through portal.asgi, as under the server."""

import asyncio
import io
import json
from typing import Any
from urllib.parse import quote

from asgiref.sync import async_to_sync, sync_to_async
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpResponse
from django.test import Client

from portal.asgi import Portal


def run_here(function: Any, *arguments: Any) -> Any:
    """Run in the test's thread and transaction what would otherwise run in a thread of the server."""
    return sync_to_async(function, thread_sensitive=True)(*arguments)


class PortalClient(Client):
    """Like Django's Client, but responses have no context and cookies they set are not kept."""

    def request(self, **request: Any) -> Any:
        environ = self._base_environ(**request)  # type: ignore[attr-defined]
        body = environ["wsgi.input"].read() if environ.get("CONTENT_LENGTH") else b""
        path = environ["PATH_INFO"].encode("latin-1")
        headers = [(b"host", environ.get("HTTP_HOST", "localhost").encode())]
        for name, value in environ.items():
            if name.startswith("HTTP_") and name != "HTTP_HOST":
                headers.append((name[5:].lower().replace("_", "-").encode(), str(value).encode("latin-1")))
            elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                headers.append((name.lower().replace("_", "-").encode(), str(value).encode("latin-1")))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": environ["REQUEST_METHOD"],
            "scheme": environ["wsgi.url_scheme"],
            "path": path.decode("utf-8", "replace"),
            "raw_path": quote(path).encode(),
            "query_string": environ["QUERY_STRING"].encode("latin-1"),
            "headers": headers,
            "client": (environ["REMOTE_ADDR"], 1),
            "server": ("testserver", 80),
        }
        # As in Django's own client, so that the test's transaction stays open.
        signals = (request_started, request_finished)
        for signal in signals:
            signal.disconnect(close_old_connections)
        try:
            return async_to_sync(answer)(scope, body)
        finally:
            for signal in signals:
                signal.connect(close_old_connections)


async def answer(scope: dict[str, Any], body: bytes = b"") -> HttpResponse:
    """Send one request to a new portal application."""
    received: list[bool] = []
    status, headers, chunks = 0, [], io.BytesIO()

    async def receive() -> dict[str, Any]:
        if not received:
            received.append(True)
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never reached")

    async def send(message: Any) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], message["headers"]
        chunks.write(message.get("body", b""))

    await Portal(threads=1, run_in_thread=run_here)(scope, receive, send)
    response = HttpResponse(chunks.getvalue(), status=status)
    del response["Content-Type"]
    for name, value in headers:
        response[name.decode("latin-1")] = value.decode("latin-1")
    response.json = lambda: json.loads(response.content)  # type: ignore[attr-defined]
    return response
