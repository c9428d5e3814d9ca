"""The only HTTP client for Microsoft, based on libcurl (docs/decisions.md says why).

Redirects are never followed, and the size of answers is limited. A failed request is not raised but returned as an
answer with ``status`` 0 and a reason, because callers expect outages.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Generic, TypeVar

import certifi
import pycurl

MAX_BODY = 4_000_000
CONNECT_TIMEOUT = 5.0
MANY = 10  # with this many running requests or more, answers are collected several at a time
GATHER = 0.004  # seconds to wait for more answers

Tag = TypeVar("Tag")


@dataclass(frozen=True, slots=True)
class Request(Generic[Tag]):
    """One request. ``tag`` is returned with the answer."""

    method: str
    url: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    tag: Tag | None = None

    def __repr__(self) -> str:  # body and headers contain secrets
        return f"<{self.method} {self.url.partition('?')[0]}>"


@dataclass(frozen=True, slots=True)
class Response(Generic[Tag]):
    """One answer. ``status`` 0 means that none arrived; ``failure`` then gives the reason in one word."""

    request: Request[Tag]
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""

    def __repr__(self) -> str:
        return f"<{self.status} {self.failure} for {self.request!r}>"

    @property
    def text(self) -> str:
        """Return the decoded body; invalid UTF-8 is replaced."""
        return self.body.decode("utf-8", "replace")


class Client:
    """Keeps connections open; one per thread (see client()). ``timeout`` is in seconds, ``ca_bundle`` a PEM file."""

    def __init__(self, *, timeout: float, ca_bundle: str = "", in_flight: int = 50) -> None:
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, in_flight)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, in_flight)
        self._idle = [_new_handle(timeout, ca_bundle or certifi.where()) for _ in range(in_flight)]

    def send(self, request: Request[Tag]) -> Response[Tag]:
        return next(self.send_all([request]))

    def send_all(self, requests: Iterable[Request[Tag]]) -> Iterator[Response[Tag]]:
        """Send concurrently and yield answers in any order. The next request is taken only when a slot is free."""
        source = iter(requests)
        running: dict[Any, tuple[Request[Tag], BytesIO, BytesIO]] = {}
        exhausted = False
        try:
            while True:
                while self._idle and not exhausted:
                    request = next(source, None)
                    if request is None:
                        exhausted = True
                    else:
                        self._start(request, running)
                if not running:
                    return
                yield from self._collect(running)
        finally:
            for handle in list(running):
                self._release(handle, running)

    def close(self) -> None:
        for handle in self._idle:
            handle.close()
        self._idle.clear()
        self._multi.close()

    def _start(self, request: Request[Tag], running: dict[Any, Any]) -> None:
        handle, body, head = self._idle.pop(), BytesIO(), BytesIO()

        def receive(chunk: bytes) -> int:
            return body.write(chunk) if body.tell() + len(chunk) <= MAX_BODY else 0

        handle.setopt(pycurl.URL, request.url)
        handle.setopt(pycurl.WRITEFUNCTION, receive)
        handle.setopt(pycurl.HEADERFUNCTION, head.write)
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in (*request.headers, ("Expect", ""))])
        if request.body is None:
            handle.setopt(pycurl.HTTPGET, 1)
        else:
            handle.setopt(pycurl.POST, 1)
            handle.setopt(pycurl.POSTFIELDS, request.body)
        handle.setopt(pycurl.CUSTOMREQUEST, request.method)
        self._multi.add_handle(handle)
        running[handle] = (request, body, head)

    def _collect(self, running: dict[Any, tuple[Request[Tag], BytesIO, BytesIO]]) -> Iterator[Response[Tag]]:
        self._multi.perform()
        _, done, failed = self._multi.info_read()
        if not done and not failed:
            # -1 means that libcurl has nothing to wait for yet (name resolution runs in its own thread).
            if self._multi.select(1.0) == -1:
                time.sleep(0.002)
            elif len(running) >= MANY:
                # Collect several answers at once, because the cost of each check grows with the number of running
                # requests.
                time.sleep(GATHER)
            return
        for handle in done:
            status = handle.getinfo(pycurl.RESPONSE_CODE)
            request, body, head = self._release(handle, running)
            # Nearly all answers are successes, whose headers are never needed.
            headers = {} if status == 200 else _headers(head.getvalue())
            yield Response(request, status, headers, body.getvalue())
        for handle, number, _ in failed:
            request, *_ = self._release(handle, running)
            yield Response(request, 0, failure=_REASONS.get(number, "transport"))

    def _release(self, handle: Any, running: dict[Any, Any]) -> Any:
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        return running.pop(handle)


def _new_handle(timeout: float, ca_bundle: str) -> Any:
    handle = pycurl.Curl()
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.FOLLOWLOCATION, 0)
    handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    # Only one request per connection at a time, so that a stalled answer does not delay others.
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.CAINFO, ca_bundle)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(min(CONNECT_TIMEOUT, timeout) * 1000))
    handle.setopt(pycurl.TIMEOUT_MS, int(timeout * 1000))
    handle.setopt(pycurl.USERAGENT, "m365-connection-portal")
    handle.setopt(pycurl.ACCEPT_ENCODING, "gzip")
    return handle


def _headers(raw: bytes) -> dict[str, str]:
    """Return headers by lower-case name; repeated ones (such as WWW-Authenticate) are joined by commas."""
    headers: dict[str, str] = {}
    for line in raw.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


# The reasons known to classifier.transport_failure().
_REASONS = {
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_COULDNT_RESOLVE_HOST: "dns",
    pycurl.E_COULDNT_RESOLVE_PROXY: "proxy",
    pycurl.E_COULDNT_CONNECT: "refused",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls",
    pycurl.E_SSL_CONNECT_ERROR: "tls",
    pycurl.E_GOT_NOTHING: "reset",
    pycurl.E_RECV_ERROR: "reset",
    pycurl.E_SEND_ERROR: "reset",
}

_configuration: dict[str, Any] = {"timeout": 15.0}
_local = threading.local()


def configure(*, timeout: float, ca_bundle: str = "", in_flight: int = 50) -> None:
    """Set the options for this process's clients. Called once, when Django is ready."""
    _configuration.update(timeout=timeout, ca_bundle=ca_bundle, in_flight=in_flight)


def client() -> Client:
    """Return the current thread's client, which is created on first use and keeps its connections open."""
    client: Client | None = getattr(_local, "client", None)
    if client is None:
        client = _local.client = Client(**_configuration)
    return client
