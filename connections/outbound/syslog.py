"""Send messages by syslog: the format of RFC 5424, over TCP with octet counting (RFC 6587) or over TLS (RFC 5425).

Syslog has no answer to a message, and what TCP has accepted may never be read. Each batch therefore gets a connection of
its own. After the last message we end our side, and the batch has arrived once the receiver ends its side too and has
acknowledged every byte: a program that ends, or is killed, with something unread resets the connection instead.
"""

import fcntl
import re
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import certifi

from connections.outbound import safe_http
from connections.outbound.safe_http import Target

PORTS = {"syslog+tls": 6514, "syslog+tcp": 514}
TIMEOUT = 10.0  # seconds for connecting, and for each step of TLS
TRANSFER = 30.0  # seconds for sending a batch, and then for the receiver to read it
_ADDRESSES = 2  # that are tried, so that a batch takes less than two minutes
_AUDIT = 13  # the facility "log audit"
_NOT_PRINTABLE = re.compile(r"[^!-~]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Without a registered number of its own, an application uses the one for documentation (RFC 5612).
_ENTERPRISE = 32473


@dataclass(frozen=True, slots=True)
class Trust:
    """The files (PEM) for TLS: authorities that are trusted (default: certifi's), and our own certificate with its key."""

    ca_bundle: str = ""
    client_certificate: str = ""


def message(*, severity: int, at: str, host: str, kind: str, data: Mapping[str, object], text: str) -> bytes:
    """Return one message; ``at`` is an RFC 3339 time, ``text`` is ASCII. Empty values of ``data`` are left out."""
    fields = "".join(f' {name}="{_escape(str(value))}"' for name, value in data.items() if value not in (None, ""))
    head = f"<{_AUDIT * 8 + severity}>1 {_name(at, 32)} {_name(host, 255)} connection-portal - {_name(kind, 32)}"
    return f"{head} [audit@{_ENTERPRISE}{fields}] {text}".encode("utf-8", "replace")


def send(url: str, messages: Iterable[bytes], *, allow_private: bool, trust: Trust) -> str:
    """Send a batch; return "" if all of it has arrived, and otherwise why not. Never raises."""
    parts = urlsplit(url)
    target = Target(url, parts.hostname or "", parts.port or PORTS[parts.scheme])
    frames = b"".join(b"%d %b" % (len(item), item) for item in messages)
    try:
        addresses = safe_http.check(target, allow_private=allow_private)
    except safe_http.TargetRefused as refused:
        return refused.cause
    except (OSError, UnicodeError):
        return "The server name can't be resolved."
    try:
        context = _context(trust) if parts.scheme == "syslog+tls" else None
    except OSError:  # includes ssl.SSLError
        return "The files for TLS can't be read."
    try:
        with _connect(addresses[:_ADDRESSES], target.port) as raw:
            if context:
                _send_by_tls(raw, frames, target.host, context)
            else:
                _send_by_tcp(raw, frames)
    except ssl.SSLCertVerificationError:
        return "The receiver's certificate isn't trusted."
    except TimeoutError:
        return "The receiver didn't respond in time."
    except ConnectionRefusedError:
        return "The receiver refused the connection."
    except (_NotRead, ssl.SSLEOFError):
        return "The receiver closed the connection before it had read everything."
    except ssl.SSLError:
        return "The encrypted connection failed."
    except OSError:
        return "The connection was interrupted."
    return ""


def _context(trust: Trust) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust.ca_bundle or certifi.where())
    if trust.client_certificate:
        context.load_cert_chain(trust.client_certificate)
    return context


def _connect(addresses: list[str], port: int) -> socket.socket:
    for number, address in enumerate(addresses, start=1):
        try:
            return socket.create_connection((address, port), timeout=TIMEOUT)
        except OSError:
            if number == len(addresses):
                raise
    raise OSError("no address")


def _send_by_tcp(raw: socket.socket, frames: bytes) -> None:
    raw.settimeout(TRANSFER)
    raw.sendall(frames)
    raw.shutdown(socket.SHUT_WR)
    if raw.recv(1):
        raise OSError("the receiver sends something, so it isn't a syslog server")
    _require_acknowledged(raw)


def _send_by_tls(raw: socket.socket, frames: bytes, host: str, context: ssl.SSLContext) -> None:
    with context.wrap_socket(raw, server_hostname=host) as encrypted:
        encrypted.settimeout(TRANSFER)
        encrypted.sendall(frames)
        # Sends close_notify and waits for the receiver's (RFC 5425, 4.4). rsyslog with GnuTLS only ends the connection.
        with suppress(ssl.SSLEOFError):
            encrypted.unwrap()
            encrypted.shutdown(socket.SHUT_WR)
            encrypted.recv(1)
        _require_acknowledged(encrypted)


def _require_acknowledged(raw: socket.socket) -> None:
    """Refuse an end that came before the receiver's system had taken all bytes: it answers the others with a reset."""
    if sys.platform != "linux":
        return
    until = time.monotonic() + TIMEOUT
    while struct.unpack("i", fcntl.ioctl(raw, termios.TIOCOUTQ, bytes(4)))[0]:  # our own end counts as a byte
        if raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or time.monotonic() > until:
            raise _NotRead
        time.sleep(0.02)


class _NotRead(OSError):
    """The receiver ended the connection before it had read everything."""


def _name(text: str, length: int) -> str:
    return _NOT_PRINTABLE.sub("_", text)[:length] or "-"


def _escape(value: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", _CONTROL.sub(" ", value))
