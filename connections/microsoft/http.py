"""The one HTTP client that talks to Microsoft: many requests at once over kept connections, each with a time-out.

libcurl does the work (docs/decisions.md says why). Redirects are never followed, answers are capped in size, and
what could not be delivered comes back as an answer with ``status`` 0 and a reason, not as an exception: for the
caller an outage is an ordinary thing.
"""

from __future__ import annotations

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
MANY = 10  # requests under way from which on answers are taken several at a time
GATHER = 0.004  # seconds

Tag = TypeVar("Tag")


@dataclass(frozen=True, slots=True)
class Request(Generic[Tag]):
    """One request. ``tag`` is whatever the caller wants back with the answer."""

    method: str
    url: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    tag: Tag | None = None

    def __repr__(self) -> str:
        # Body and headers hold secrets.
        return f"<{self.method} {self.url.partition('?')[0]}>"


@dataclass(frozen=True, slots=True)
class Response(Generic[Tag]):
    """One answer. ``status`` 0 means there was none; ``failure`` then says why in a word."""

    request: Request[Tag]
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    failure: str = ""

    def __repr__(self) -> str:
        return f"<{self.status} {self.failure} for {self.request!r}>"

    @property
    def text(self) -> str:
        """The body as text; bytes that are no UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")


class Client:
    """Sends requests concurrently and keeps the connections for the next call.

    One instance per thread; ``client()`` hands out the current thread's. ``timeout`` is seconds for a whole
    request, ``ca_bundle`` a PEM file (empty: certifi's).
    """

    def __init__(self, *, timeout: float, ca_bundle: str = "", in_flight: int = 50) -> None:
        self._timeout = timeout
        self._ca_bundle = ca_bundle or certifi.where()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, in_flight)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, in_flight)
        self._idle = [self._handle() for _ in range(in_flight)]

    def send(self, request: Request[Tag]) -> Response[Tag]:
        """Send one request and wait for its answer."""
        return next(self.send_all([request]))

    def send_all(self, requests: Iterable[Request[Tag]]) -> Iterator[Response[Tag]]:
        """Send all requests concurrently; yield each answer as it arrives, in any order.

        ``requests`` is drawn from only as slots become free, so a generator may hand out work late.
        """
        source = iter(requests)
        flying: dict[Any, tuple[Request[Tag], BytesIO, BytesIO]] = {}
        exhausted = False
        try:
            while True:
                while self._idle and not exhausted:
                    following = next(source, None)
                    if following is None:
                        exhausted = True
                    else:
                        self._launch(following, flying)
                if not flying:
                    return
                yield from self._collect(flying)
        finally:
            for handle in flying:
                self._multi.remove_handle(handle)
                self._idle.append(handle)

    def close(self) -> None:
        """Close every connection."""
        for handle in self._idle:
            handle.close()
        self._idle.clear()
        self._multi.close()

    def _handle(self) -> Any:
        handle = pycurl.Curl()
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.FOLLOWLOCATION, 0)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        # One request per connection at a time: a stalled answer holds up nobody else.
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.CAINFO, self._ca_bundle)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(min(CONNECT_TIMEOUT, self._timeout) * 1000))
        handle.setopt(pycurl.TIMEOUT_MS, int(self._timeout * 1000))
        handle.setopt(pycurl.USERAGENT, "m365-connection-portal")
        handle.setopt(pycurl.ACCEPT_ENCODING, "gzip")
        return handle

    def _launch(self, request: Request[Tag], flying: dict[Any, Any]) -> None:
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
        flying[handle] = (request, body, head)

    def _collect(self, flying: dict[Any, tuple[Request[Tag], BytesIO, BytesIO]]) -> Iterator[Response[Tag]]:
        self._multi.perform()
        _, done, failed = self._multi.info_read()
        if not done and not failed:
            # -1: libcurl has nothing to wait on yet (name resolution in its own thread).
            if self._multi.select(1.0) == -1:
                time.sleep(0.002)
            elif len(flying) >= MANY:
                # Let answers gather: each look costs in proportion to all that are under way.
                time.sleep(GATHER)
            return
        for handle in done:
            status = handle.getinfo(pycurl.RESPONSE_CODE)
            request, body, head = self._land(handle, flying)
            # Of a success nobody reads them, and it is nearly every answer.
            headers = {} if status == 200 else _headers(head.getvalue())
            yield Response(request, status, headers, body.getvalue())
        for handle, number, _ in failed:
            request, *_ = self._land(handle, flying)
            yield Response(request, 0, failure=_REASONS.get(number, "transport"))

    def _land(self, handle: Any, flying: dict[Any, Any]) -> Any:
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        return flying.pop(handle)


def _headers(raw: bytes) -> dict[str, str]:
    """Header lines by lower-case name; several of one name (WWW-Authenticate may repeat) are joined by commas."""
    found: dict[str, str] = {}
    for line in raw.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            found[key] = f"{found[key]}, {value.strip()}" if key in found else value.strip()
    return found


# The words errors.transport_failure() knows.
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
    """Set how this process talks to Microsoft. Called once when Django is ready."""
    _configuration.update(timeout=timeout, ca_bundle=ca_bundle, in_flight=in_flight)


def client() -> Client:
    """The current thread's client; made on first use and kept, so its connections stay open."""
    client: Client | None = getattr(_local, "client", None)
    if client is None:
        client = _local.client = Client(**_configuration)
    return client
