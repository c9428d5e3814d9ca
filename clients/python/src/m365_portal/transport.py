"""HTTP calls to the portal: keep-alive, time-outs, no redirects, and retries only where they are safe."""

from __future__ import annotations

import base64
import email.utils
import http.client
import ipaddress
import json
import os
import random
import ssl
import threading
import time
import urllib.request
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from m365_portal.errors import ConfigurationError, PortalError, Unavailable, UnexpectedAnswer, from_answer

LONGEST_ANSWER = 20 * 1024 * 1024  # bytes
KEPT_IDLE = 4.0  # seconds; servers commonly close idle connections after five
MOST_IDLE = 8
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between attempts

sleep = time.sleep


@dataclass(frozen=True)
class Answer:
    """The portal's response to one request."""

    status: int
    headers: http.client.HTTPMessage
    body: Any  # parsed JSON; None if there was no body


class Transport:
    """Sends requests to one portal. It may be used from several threads, and after a fork."""

    def __init__(self, url: str, key: str, *, timeout: float, ca_file: str | None, agent: str) -> None:
        self.url, self.timeout = checked_url(url), timeout
        parts = urlsplit(self.url)
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._base = parts.path
        self._headers = {
            "Authorization": f"Bearer {checked_key(key)}",
            "Accept": "application/json",
            "User-Agent": agent,
        }
        self._context = _tls(ca_file) if self._secure else None
        self._proxy = _proxy_for(self.url, self._host) if self._secure else None
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []
        self._process = os.getpid()
        # Close the sockets of a program that forgets to.
        weakref.finalize(self, _close_all, self._idle)

    def close(self) -> None:
        """Close all sockets. The transport can still be used afterwards."""
        with self._lock:
            _close_all(self._idle)

    def send(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None, patience: float
    ) -> Answer:
        """Send a request and retry for at most ``patience`` seconds while the portal is busy or unavailable.

        Only requests that change nothing or have an Idempotency-Key are retried. A Retry-After header is honoured; if
        waiting that long would exceed ``patience``, there are no more retries. Raises PortalError.
        """
        sent = {**self._headers, **(headers or {})}
        content = None
        if body is not None:
            content, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        harmless = method in ("GET", "HEAD") or "Idempotency-Key" in sent
        end, attempt = time.monotonic() + patience, 0
        while True:
            try:
                return self._attempt(method, path, content, sent)
            except Unavailable as away:
                pause = _pause(away, attempt)
                safe = harmless or away.status in (429, 503)
                if not safe or time.monotonic() + pause > end:
                    raise
            sleep(pause)
            attempt += 1

    def _attempt(self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            response, text = self._exchange(method, path, content, headers)
        except (OSError, http.client.HTTPException) as problem:
            raise self._away(problem) from None
        return self._read(response, text)

    def _exchange(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection, kept = self._take()
        try:
            try:
                connection.request(method, self._base + path, content, dict(headers))
                response = connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The portal may have closed a persistent connection just as it was reused.
                if not kept or not (method in ("GET", "HEAD") or "Idempotency-Key" in headers):
                    raise
                connection.close()
                connection = self._connect()
                connection.request(method, self._base + path, content, dict(headers))
                response = connection.getresponse()
            text = response.read(LONGEST_ANSWER + 1)
        except BaseException:
            connection.close()
            raise
        if response.will_close or not response.isclosed():
            connection.close()
        else:
            self._give_back(connection)
        return response, text

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._process != os.getpid():
                # Sockets copied by a fork belong to the parent.
                self._process = os.getpid()
                self._idle.clear()
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < KEPT_IDLE:
                    return connection, True
                connection.close()
        return self._connect(), False

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < MOST_IDLE and self._process == os.getpid():
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)
        if self._proxy is None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self.timeout, context=self._context)
        proxy = urlsplit(self._proxy)
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or 8080, timeout=self.timeout, context=self._context
        )
        login = {}
        if proxy.username:
            pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            login["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        connection.set_tunnel(self._host, self._port, headers=login)
        return connection

    def _away(self, problem: Exception) -> PortalError:
        """Return the error for a missing response, naming only the kind of problem: its text may contain paths."""
        if isinstance(problem, ssl.SSLCertVerificationError):
            return ConfigurationError(
                f"The certificate of {self.url} isn't trusted: {problem.verify_message}.",
                action="If the portal uses your organisation's certificate, specify its CA file.",
            )
        kind = "it didn't respond in time" if isinstance(problem, TimeoutError) else type(problem).__name__
        return Unavailable(
            f"The portal at {self.url} can't be reached: {kind}.",
            code="unreachable",
            action="Check that the portal is running and reachable from this machine.",
            who="operator",
        )

    def _read(self, response: http.client.HTTPResponse, text: bytes) -> Answer:
        if 300 <= response.status < 400:
            where = urlsplit(response.headers.get("Location", ""))
            elsewhere = f"to {where.scheme}://{where.netloc}" if where.netloc else "elsewhere"
            raise UnexpectedAnswer(
                f"{self.url} redirects {elsewhere}. The key wasn't sent there.",
                action="Use the portal's actual URL.",
                who="caller",
                status=response.status,
            )
        body = _json(text) if len(text) <= LONGEST_ANSWER else _NO_JSON
        if not 200 <= response.status < 300:
            details = body if isinstance(body, dict) else {}
            raise from_answer(response.status, details, retry_after(response.headers.get("Retry-After", "")))
        if body is _NO_JSON:
            raise from_answer(response.status, {}, None)
        return Answer(response.status, response.headers, body)


def _close_all(idle: list[tuple[float, http.client.HTTPConnection]]) -> None:
    while idle:
        idle.pop()[1].close()


def _pause(away: Unavailable, attempt: int) -> float:
    """Return the seconds until the next attempt: the portal's Retry-After, or an increasing delay."""
    if away.retry_after is not None:
        return away.retry_after
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**attempt) * random.uniform(0.5, 1)


_NO_JSON = object()


def _json(text: bytes) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return _NO_JSON


def retry_after(text: str) -> float | None:
    """Return the seconds in a Retry-After header (RFC 9110, 10.2.3), or None if it is unusable."""
    if text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, until.timestamp() - time.time())


def checked_url(url: str) -> str:
    """Return the portal's address without a slash at its end.

    Plain http is accepted only for this machine, because the key would be readable in transit. Raises
    ConfigurationError if the address cannot be used.
    """
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise ConfigurationError("The portal's URL isn't valid.") from None
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ConfigurationError(
            "The portal's URL must look like https://portal.example.org.", action="Set PORTAL_URL or use --url."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("The portal's URL can't contain a user name, query or fragment.")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigurationError(
            f"The portal's URL {parts.scheme}://{parts.netloc} isn't encrypted, so others could read the key and tokens.",
            action="Use https. Plain http is allowed only for a portal on this machine.",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def checked_key(key: str) -> str:
    """Return the stripped key. Raises ConfigurationError if it is unusable; the error never shows the key."""
    key = key.strip()
    if not key:
        raise ConfigurationError(
            "There is no API key.",
            action="Create an API key in the portal, then set PORTAL_API_KEY or PORTAL_API_KEY_FILE.",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("The API key contains invalid characters.", action="Copy the complete key again.")
    return key


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(f"The CA file {ca_file} contains no valid PEM certificates.") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _proxy_for(url: str, host: str) -> str | None:
    """Return the proxy in HTTPS_PROXY, unless NO_PROXY names the host."""
    proxy = urllib.request.getproxies().get("https", "")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
