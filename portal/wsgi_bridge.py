"""Runs a WSGI application under an ASGI server, in a limited number of threads.

A request gets a thread only when it has arrived completely, so clients that send slowly occupy none. Responses are
streamed: the application waits while the client reads slowly, and is stopped if the client disconnects.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from connections import tracing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

logger = logging.getLogger(__name__)

SILENCE = 10.0  # seconds that a client may pause while it sends the body of a request
IN_MEMORY = 65_536  # bytes of a body that are kept in memory; a larger body is moved to a temporary file


class ClientGone(Exception):
    """The client has closed the connection."""


class WSGIBridge:
    """An ASGI application that runs a WSGI application in ``threads`` threads.

    Tests can pass another ``run_in_thread``.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        *,
        threads: int,
        run_in_thread: Callable[..., Awaitable[Any]] | None = None,
    ) -> None:
        self._application = application
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._run_in_thread = run_in_thread or self._run_in_own_thread

    def _run_in_own_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as body:
            status = await _read_body(scope, receive, body)
            if status is not None:
                headers = [(b"content-length", b"0"), (b"connection", b"close")]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
                return
            body.seek(0)
            loop = asyncio.get_running_loop()
            response = _Response(loop, send, knows_chunks=scope["http_version"] not in ("0.9", "1.0"))
            watch = loop.create_task(_wait_for_disconnect(receive, response))
            try:
                environ = build_environ(scope, body)
                await self._run_in_thread(tracing.carry_into(Context()).run, self._run, environ, response)
            except ClientGone:
                pass
            finally:
                watch.cancel()

    def _run(self, environ: dict[str, Any], response: _Response) -> None:
        if response.is_client_gone:  # it disconnected while waiting for a thread
            raise ClientGone
        chunks = self._application(environ, response.start)
        try:
            for chunk in chunks:
                response.write(chunk)
            response.write(b"", is_last=True)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()


async def _read_body(scope: Scope, receive: Receive, body: IO[bytes]) -> int | None:
    """Write the request's body to ``body``. Returns None or, if it is too slow or incomplete, the HTTP status to send."""
    while True:
        try:
            message = await asyncio.wait_for(receive(), SILENCE)
        except TimeoutError:
            return 408
        if message["type"] == "http.disconnect":
            return 400
        body.write(message.get("body", b""))
        if not message.get("more_body", False):
            return None


async def _wait_for_disconnect(receive: Receive, response: _Response) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    response.is_client_gone = True


class _Response:
    """The response that the application writes in its thread. ``write`` waits until the server accepts the data."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Send, *, knows_chunks: bool) -> None:
        self._loop, self._send, self._knows_chunks = loop, send, knows_chunks
        self._head: Message | None = None
        # For a client that doesn't support chunks, a response of unknown length is collected here (RFC 9112, 6.1).
        self._collected: IO[bytes] | None = None
        self.is_client_gone = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:  # PEP 3333
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": int(status[:3]), "headers": encoded}
        if not self._knows_chunks and b"content-length" not in dict(encoded):
            self._collected = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed when it has been sent
        return self.write

    def write(self, chunk: bytes, *, is_last: bool = False) -> None:
        if self.is_client_gone:
            raise ClientGone
        if self._collected is not None:
            self._collected.write(chunk)
            if is_last:
                self._send_collected(self._collected)
        elif chunk or is_last:
            asyncio.run_coroutine_threadsafe(self._write(chunk, is_last), self._loop).result()

    def _send_collected(self, collected: IO[bytes]) -> None:
        if self._head is not None:
            self._head["headers"].append((b"content-length", str(collected.tell()).encode()))
        self._collected = None
        with collected:
            collected.seek(0)
            while chunk := collected.read(IN_MEMORY):
                self.write(chunk)
        self.write(b"", is_last=True)

    async def _write(self, chunk: bytes, is_last: bool) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": not is_last})


def build_environ(scope: Scope, body: IO[bytes]) -> dict[str, Any]:
    """Return the WSGI environment (PEP 3333) for an ASGI HTTP scope."""
    host, port = scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0] if scope.get("client") else "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        **scope.get("portal.environ", {}),
    }
    for raw_name, raw_value in scope["headers"]:
        if b"_" in raw_name:
            continue  # WSGI can't distinguish it from the header with dashes, which a proxy may have checked
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        name = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    return environ
