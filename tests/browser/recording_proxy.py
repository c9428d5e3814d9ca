"""A small HTTP proxy that forwards and records everything.

One proxy is in front of the portal and one in front of the sandbox, so a test knows every secret that was issued and
every byte that the portal sent.
"""

import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Exchange:
    method: str
    path: str  # including its query string
    sent: bytes
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first response header with this name, or an empty string."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


@dataclass
class Wire:
    """A proxy on a port of 127.0.0.1; ``target`` is the port behind it, set as soon as it is known."""

    host: str = "127.0.0.1"
    target: int = 0
    exchanges: list[Exchange] = field(default_factory=list)

    def __post_init__(self) -> None:
        wire = self

        class Handler(_Handler):
            def passed_on(self, body: bytes) -> Exchange:
                return _pass_on(wire, self, body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _pass_on(wire: Wire, handler: BaseHTTPRequestHandler, body: bytes) -> Exchange:
    onward = http.client.HTTPConnection("127.0.0.1", wire.target, timeout=30)
    try:
        headers = {name: value for name, value in handler.headers.items() if name.lower() not in _HOP_BY_HOP}
        onward.request(handler.command, handler.path, body or None, headers)
        answer = onward.getresponse()
        exchange = Exchange(handler.command, handler.path, body, answer.status, answer.getheaders(), answer.read())
    finally:
        onward.close()
    # A test's control calls are not the portal's traffic.
    if not handler.path.startswith("/_control/"):
        wire.exchanges.append(exchange)
    return exchange


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def passed_on(self, body: bytes) -> Exchange:
        raise NotImplementedError

    def answer(self) -> None:
        """Forward the request and return the response."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            exchange = self.passed_on(body)
        except (OSError, http.client.HTTPException):
            self.send_error(502)
            return
        self.send_response_only(exchange.status)
        for name, value in exchange.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(exchange.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(exchange.body)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def handle(self) -> None:
        """Serve a connection; ignore browsers that disconnect."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True
