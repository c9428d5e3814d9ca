"""Receivers of alerts: a mail server and a web server that can be down, reject messages or hang."""

import email
import email.policy
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from portal.sandbox.process import free_port


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Mailboxes:
    """The received emails, and how the mail server behaves."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # address → response to RCPT
    refuse_data: str = ""  # response at the end of DATA
    silent: threading.Event = field(default_factory=threading.Event)  # if set, accepts connections and does not respond
    sessions: int = 0

    def to(self, address: str) -> list[EmailMessage]:
        """Return the emails to one address, oldest first."""
        return [mail for mail, to in zip(self.mails, self.recipients, strict=True) if to == address]

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        boxes: Mailboxes = self.server.boxes  # type: ignore[attr-defined]
        boxes.sessions += 1
        if boxes.silent.is_set():
            self.request.settimeout(5)
            self._wait_for_the_end()
            return
        self._say("220 ready")
        to = ""
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            if verb == "RCPT":
                to = line.partition("<")[2].partition(">")[0]
                self._say(boxes.refused.get(to, "250 ok"))
            elif verb == "DATA":
                self._say("354 go on")
                raw = b"".join(iter(self.rfile.readline, b".\r\n"))
                if boxes.refuse_data:
                    self._say(boxes.refuse_data)
                    continue
                boxes.mails.append(email.message_from_bytes(raw, policy=email.policy.default))
                boxes.recipients.append(to)
                self._say("250 taken")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def _wait_for_the_end(self) -> None:
        try:
            self.rfile.read(1)
        except TimeoutError:
            return


class _MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def mail_server(boxes: Mailboxes) -> Iterator[Mailboxes]:
    """Run a mail server on ``boxes.port`` during the block."""
    server = _MailServer(("127.0.0.1", boxes.port), _Session)
    server.boxes = boxes  # type: ignore[attr-defined]
    with _serving(server):
        yield boxes


def use_mail_server(settings: Any) -> Mailboxes:
    """Point the settings at a mail server; start it with mail_server()."""
    boxes = Mailboxes(free_port())
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", boxes.port
    settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
    settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
    settings.EMAIL_TIMEOUT = 0.5
    return boxes


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Hooks:
    """The received requests, and how the web server responds."""

    port: int
    requests: list[Received] = field(default_factory=list)
    status: int = 204
    answer: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/a-secret-part"


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        hooks: Hooks = self.server.hooks  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        names = {name.lower(): value for name, value in self.headers.items()}
        hooks.requests.append(Received(self.path, names, body))
        self.send_response(hooks.status)
        for name, value in hooks.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(hooks.answer)))
        self.end_headers()
        self.wfile.write(hooks.answer)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def web_server() -> Iterator[Hooks]:
    """Run a web server for webhooks during the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    server.daemon_threads = True
    server.hooks = Hooks(server.server_address[1])  # type: ignore[attr-defined]
    with _serving(server):
        yield server.hooks  # type: ignore[attr-defined]


@dataclass
class Syslog:
    """The received syslog messages, one batch per connection, and how the server behaves."""

    port: int
    batches: list[list[str]] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)  # if set, it reads, but never ends its side

    @property
    def messages(self) -> list[str]:
        return [message for batch in self.batches for message in batch]


class _SyslogSession(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        log: Syslog = self.server.log  # type: ignore[attr-defined]
        batch: list[str] = []
        while length := self._length():
            batch.append(self.rfile.read(length).decode())
        log.batches.append(batch)
        while log.silent.is_set():
            time.sleep(0.02)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.unwrap()

    def _length(self) -> int:
        digits = b""
        while (letter := self.rfile.read(1)) not in (b"", b" "):
            digits += letter
        return int(digits or 0)


@contextmanager
def syslog_server(context: ssl.SSLContext | None = None) -> Iterator[Syslog]:
    """Run a syslog server (octet counting, with TLS if there is a context) during the block."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _SyslogSession)
    server.daemon_threads = True
    server.log = Syslog(int(server.server_address[1]))  # type: ignore[attr-defined]
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=True)
    with _serving(server):
        yield server.log  # type: ignore[attr-defined]
