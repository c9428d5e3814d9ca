"""The only HTTP client for Microsoft, based on libcurl (docs/decisions.md says why).

Redirects are never followed, and the size of responses is limited. A failed request raises no error, because callers
expect outages. Instead, its response has ``status`` 0 and a reason.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

import certifi
import pycurl

from connections import counters, tracing
from connections.microsoft import server_clock

MAX_BODY = 4_000_000  # bytes
MAX_HEAD = 65_536  # bytes of a response's headers
# Bytes of all bodies that a client is receiving; enough for thousands of ordinary ones.
MAX_RECEIVED = 16_000_000
CONNECT_TIMEOUT = 5.0
MANY = 10  # with this many running requests or more, several responses are collected at a time
GATHER = 0.004  # seconds to wait for more responses

_ENDPOINTS = {"/token": "token", "/openid-configuration": "discovery"}

Tag = TypeVar("Tag")


@dataclass(frozen=True, slots=True)
class Request(Generic[Tag]):
    """One request. ``tag`` helps to recognise its response, which must not be larger than ``max_answer`` bytes."""

    method: str
    url: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    tag: Tag | None = None
    max_answer: int = MAX_BODY

    def __repr__(self) -> str:  # body and headers contain secrets
        return f"<{self.method} {self.url.partition('?')[0]}>"


@dataclass(frozen=True, slots=True)
class Response(Generic[Tag]):
    """The response to a request. If none arrived, ``status`` is 0 and ``failure`` gives the reason in one word."""

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
    """An HTTP client that keeps connections open. There is one per thread (see client()).

    ``timeout`` is in seconds; ``ca_bundle`` is a PEM file. Receiving a response is aborted if it takes too long, if the
    response is too large, or if all responses that are being received together are too large.
    """

    def __init__(self, *, timeout: float, ca_bundle: str = "", in_flight: int = 50) -> None:
        self.in_flight = in_flight
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, in_flight)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, in_flight)
        self._new_handle = partial(_new_handle, timeout, ca_bundle or certifi.where())
        self._idle: list[Any] = []
        self._received = 0

    def send(self, request: Request[Tag]) -> Response[Tag]:
        return next(self.send_all([request]))

    def send_all(self, requests: Iterable[Request[Tag]]) -> Iterator[Response[Tag]]:
        """Send the requests concurrently, and yield the responses as they arrive.

        The next request is taken from ``requests`` only when a slot is free.
        """
        source = iter(requests)
        for responses in self.exchange(lambda: next(source, None)):
            yield from responses

    def exchange(self, take: Callable[[], Request[Tag] | None]) -> Iterator[list[Response[Tag]]]:
        """Send the requests that ``take`` returns while slots are free. Yields the responses that have arrived since
        last time.

        ``take`` returns None if there is nothing to send at the moment, and is called again after each yield. Before
        each wait, an empty list is yielded, so that the caller has time for other work. The generator ends when nothing
        is running.
        """
        running: dict[Any, _Running] = {}
        try:
            while True:
                while len(running) < self.in_flight and (request := take()) is not None:
                    self._start(request, running)
                if not running:
                    return
                self._multi.perform()
                responses = self._collect(running)
                yield responses
                if not responses:
                    self._wait(running)
        finally:
            for handle in list(running):
                self._release(handle, running)

    def close(self) -> None:
        for handle in self._idle:
            handle.close()
        self._idle.clear()
        self._multi.close()

    def _start(self, request: Request[Tag], running: dict[Any, Any]) -> None:
        handle = self._idle.pop() if self._idle else self._new_handle()
        body, head = BytesIO(), BytesIO()

        def receive(chunk: bytes) -> int:
            size = len(chunk)
            if body.tell() + size > request.max_answer or self._received + size > MAX_RECEIVED:
                return 0
            self._received += size
            return body.write(chunk)

        def receive_head(line: bytes) -> int:
            return head.write(line) if head.tell() < MAX_HEAD else 0

        handle.setopt(pycurl.URL, request.url)
        handle.setopt(pycurl.WRITEFUNCTION, receive)
        handle.setopt(pycurl.HEADERFUNCTION, receive_head)
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in (*request.headers, ("Expect", ""))])
        if request.body is None:
            handle.setopt(pycurl.HTTPGET, 1)
        else:
            handle.setopt(pycurl.POST, 1)
            handle.setopt(pycurl.POSTFIELDS, request.body)
        handle.setopt(pycurl.CUSTOMREQUEST, request.method)
        self._multi.add_handle(handle)
        running[handle] = _Running(request, body, head)

    def _wait(self, running: dict[Any, Any]) -> None:
        # -1 means that libcurl has nothing to wait for yet (name resolution runs in its own thread).
        if self._multi.select(1.0) == -1:
            time.sleep(0.002)
        elif len(running) >= MANY:
            # Collect several responses at once, because the cost of each check grows with the number of running
            # requests.
            time.sleep(GATHER)

    def _collect(self, running: dict[Any, Any]) -> list[Response[Any]]:
        _, done, failed = self._multi.info_read()
        answered = [(handle, handle.getinfo(pycurl.RESPONSE_CODE), "") for handle in done]
        answered += [(handle, 0, _REASONS.get(number, "transport")) for handle, number, _ in failed]
        _count((running[handle].request, status, handle.getinfo(pycurl.TOTAL_TIME)) for handle, status, _ in answered)
        return [self._finish(handle, status, failure, running) for handle, status, failure in answered]

    def _finish(self, handle: Any, status: int, failure: str, running: dict[Any, Any]) -> Response[Any]:
        request, body, head = self._release(handle, running)
        if failure:
            return Response(request, 0, failure=failure)
        server_clock.note(head.getvalue())
        # Nearly all responses are successful, and their headers are never needed.
        return Response(request, status, {} if status == 200 else _headers(head.getvalue()), body.getvalue())

    def _release(self, handle: Any, running: dict[Any, Any]) -> "_Running":
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        released: _Running = running.pop(handle)
        self._received -= released.body.tell()
        return released


class _Running(NamedTuple):
    """A request that has been sent, and the part of its response that has arrived."""

    request: Request[Any]
    body: BytesIO
    head: BytesIO


def _new_handle(timeout: float, ca_bundle: str) -> Any:
    handle = pycurl.Curl()
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.FOLLOWLOCATION, 0)
    handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    # Run only one request at a time on each connection, so that a stalled response does not delay others.
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.CAINFO, ca_bundle)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(min(CONNECT_TIMEOUT, timeout) * 1000))
    handle.setopt(pycurl.TIMEOUT_MS, int(timeout * 1000))
    handle.setopt(pycurl.USERAGENT, "m365-connection-portal")
    handle.setopt(pycurl.ACCEPT_ENCODING, "gzip")
    return handle


def _count(answered: Iterable[tuple[Request[Any], int, float]]) -> None:
    counts: defaultdict[counters.Key, float] = defaultdict(float)
    for request, status, seconds in answered:
        endpoint = _endpoint(request.url.partition("?")[0])
        bucket, total = counters.duration_keys("portal_microsoft_request_duration_seconds", endpoint, seconds=seconds)
        counts["portal_microsoft_requests_total", endpoint, str(status)] += 1
        counts[bucket] += 1
        counts[total] += seconds
        if tracing.is_on():
            _trace(request, status, seconds, endpoint)
    counters.add_all(counts)


def _trace(request: Request[Any], status: int, seconds: float, endpoint: str) -> None:
    """Name the server alone: the path can contain a mailbox's address, and the body of a token request secrets."""
    facts: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.response.status_code": status,
        "server.address": urlsplit(request.url).hostname or "",
    }
    error = "no_response" if status == 0 else str(status) if status >= 400 else ""
    tracing.record_call(f"{request.method} Microsoft {endpoint}", seconds, facts, error=error)


def _endpoint(address: str) -> str:
    return next((name for end, name in _ENDPOINTS.items() if address.endswith(end)), "graph")


def _headers(raw: bytes) -> dict[str, str]:
    """Return the headers by lower-case name. Repeated headers (such as WWW-Authenticate) are joined by commas."""
    headers: dict[str, str] = {}
    for line in raw.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon:
            key = name.strip().lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


# The reasons that classifier.transport_failure() knows.
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
_idle_clients: list[Client] = []


def configure(*, timeout: float, ca_bundle: str = "", in_flight: int = 50) -> None:
    """Set the options for this process's clients. Called once, when Django is ready."""
    _configuration.update(timeout=timeout, ca_bundle=ca_bundle, in_flight=in_flight)


def client() -> Client:
    """Return the current thread's client. It is created on first use and keeps its connections open."""
    client: Client | None = getattr(_local, "client", None)
    if client is None:
        client = _local.client = Client(**_configuration)
    return client


@contextmanager
def borrowed_client() -> Iterator[Client]:
    """Lend a client for many requests. Idle clients are passed on to other threads, so that their connections are
    reused.

    The thread's own client() stays free for other requests.
    """
    try:
        client = _idle_clients.pop()
    except IndexError:
        client = Client(**_configuration)
    try:
        yield client
    finally:
        _idle_clients.append(client)
