"""A server that stands in for a failing portal: it sends scripted responses in order and records the requests."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORTAL_TOKEN = {
    "access_token": "eyJ.the-scripted.token",
    "token_type": "Bearer",
    "expires_at": "2099-01-01T00:00:00.123Z",
    "scope": "Mail.Read",
}


@dataclass(frozen=True)
class Reply:
    """One response; ``drop`` closes the connection instead, and X-Date replaces the server's own Date header."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    wait_for: threading.Event | None = None


@dataclass
class Script:
    """The scripted responses (the last one repeats) and the received requests."""

    port: int
    replies: list[Reply]
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self) -> Reply:
        with self.lock:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.script: Script = self.server.script  # type: ignore[attr-defined]
        self.script.connections += 1

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        names = {name.lower(): value for name, value in self.headers.items()}
        self.script.requests.append((self.command, self.path, names))
        reply = self.script.next()
        if reply.wait_for is not None:
            reply.wait_for.wait(20)
        if reply.drop:
            self.close_connection = True
            return
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        if reply.body is None:
            content = b""
        self.send_response_only(reply.status)
        self.send_header("Date", reply.headers.pop("X-Date", self.date_time_string()))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_PATCH = do_CONNECT = _answer

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def serving(*replies: Reply, tls: tuple[Path, Path] | None = None) -> Iterator[Script]:
    """Run a server that sends ``replies`` during the block; with ``tls`` (certificate and key) over https."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    script = server.script = Script(server.server_address[1], list(replies))  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
