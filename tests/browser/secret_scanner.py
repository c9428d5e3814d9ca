"""The secrets that must never appear in clear text, and all places where they could."""

import base64
import binascii
import json
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import redis
from django.conf import settings
from django.db import connection as database

from connections.models import AppCredential, AuditEvent, Session
from tests.browser.recording_proxy import Exchange, Wire

# Form fields sent to the token endpoint, and fields of its responses.
_SENT = ("code", "refresh_token", "client_secret", "code_verifier", "client_assertion")
_ANSWERED = ("access_token", "refresh_token", "id_token")
# Pages to which Microsoft redirects with a code in the URL.
_CALLBACKS = ("/auth/complete/", "/consent/callback/")
_MESSAGE_BODY = re.compile(rb'body\\*"\s*:\s*\\*"([A-Za-z0-9+/=]+)')
_LONG = 60
_PIECE = 40


def handed_out(exchanges: Iterable[Exchange]) -> dict[str, str]:
    """Return every secret sent to or from Microsoft, as a mapping from value to kind."""
    secrets: dict[str, str] = {}
    for exchange in exchanges:
        location = parse_qs(urlsplit(exchange.header("Location")).query)
        secrets |= dict.fromkeys(location.get("code", []), "code")
        if not exchange.path.partition("?")[0].endswith("/oauth2/v2.0/token"):
            continue
        sent = parse_qs(exchange.sent.decode())
        for name in _SENT:
            secrets |= dict.fromkeys(sent.get(name, []), name)
        answer = _json(exchange.body)
        secrets |= {answer[name]: name for name in _ANSWERED if name in answer}
    return secrets


def private_keys() -> dict[str, str]:
    """Return lines from the private half of every key in the portal."""
    places: dict[str, str] = {}
    for credential in AppCredential.objects.filter(private_key__isnull=False):
        lines = (credential.private_key or "").strip().splitlines()[1:-1]
        # The first half of an RSA key in PKCS#8 form contains the public modulus.
        places |= dict.fromkeys(lines[len(lines) * 2 // 3 : -1], "private_key")
    return places


def _json(body: bytes) -> dict[str, str]:
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


class BrokerWatch:
    """Records all broker traffic, because messages are gone once a worker has taken them."""

    def __init__(self) -> None:
        self._client = cast("Any", redis.Redis.from_url(settings.REDIS_URL))
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        self._said: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            while True:
                line = self._monitor.connection.read_response(disable_decoding=True)
                self._said.append(line if isinstance(line, bytes) else str(line).encode())
        except (redis.RedisError, OSError, ValueError, AttributeError):
            return  # raised when the watch stops

    def content(self) -> bytes:
        """Return all recorded traffic and current keys, with message bodies also decoded."""
        raw = b"\n".join([*self._said, *self._kept()])
        return raw + b"\n" + b"\n".join(_decoded(body) for body in set(_MESSAGE_BODY.findall(raw)))

    def _kept(self) -> Iterator[bytes]:
        for key in self._client.scan_iter():
            yield key
            match self._client.type(key):
                case b"string":
                    yield self._client.get(key) or b""
                case b"list":
                    yield from self._client.lrange(key, 0, -1)
                case b"hash":
                    yield from (part for pair in self._client.hgetall(key).items() for part in pair)
                case b"set":
                    yield from self._client.smembers(key)
                case b"zset":
                    yield from self._client.zrange(key, 0, -1)
                case other:
                    raise AssertionError(f"nobody has taught this test to read {other!r} of the broker")

    def stop(self) -> None:
        self._monitor.connection.disconnect()
        self._thread.join(5)
        self._client.close()


def _decoded(body: bytes) -> bytes:
    try:
        return base64.b64decode(body)
    except binascii.Error:
        return b""


def database_content() -> bytes:
    """Return every byte of the database, including deleted rows that are still in the file."""
    if database.vendor == "sqlite":
        path = Path(database.settings_dict["NAME"])
        files = sorted(path.parent.glob(path.name + "*"))
        # Read in another process: closing the file here would drop SQLite's locks and corrupt the database.
        return subprocess.run(["cat", *files], check=True, capture_output=True).stdout
    with database.cursor() as cursor:
        rows = []
        for table in database.introspection.table_names(cursor):
            cursor.execute(f"SELECT row_to_json(one)::text FROM {database.ops.quote_name(table)} one")
            rows += [row[0] for row in cursor.fetchall()]
    return "\n".join(rows).encode()


def session_content() -> bytes:
    """Return all sessions, decoded."""
    return "\n".join(json.dumps(session.get_decoded()) for session in Session.objects.all()).encode()


def audit_content() -> bytes:
    """Return the audit trail, column by column."""
    return "\n".join(repr(row) for row in AuditEvent.objects.values()).encode()


def page_content(exchanges: Iterable[Exchange]) -> bytes:
    """Return all responses and requested URLs of the portal, except the URLs that Microsoft creates."""
    parts: list[bytes] = []
    for exchange in exchanges:
        if not exchange.path.startswith(_CALLBACKS):
            parts.append(exchange.path.encode())
        parts += [f"{name}: {value}".encode() for name, value in exchange.headers]
        parts.append(exchange.body)
    return b"\n".join(parts)


@dataclass
class Watch:
    """One monitored run of the portal."""

    portal: Wire
    microsoft: Wire
    broker: BrokerWatch
    logs: list[Path] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)  # additional secrets, from value to kind

    def secrets(self) -> dict[str, str]:
        """Return all secrets, as a mapping from value to kind."""
        return handed_out(self.microsoft.exchanges) | private_keys() | self.known

    def places(self) -> dict[str, bytes]:
        """Return all content that could be seen."""
        return {
            "database": database_content(),
            "sessions": session_content(),
            "audit trail": audit_content(),
            "broker": self.broker.content(),
            "pages": page_content(self.portal.exchanges),
            **{f"log {path.name}": path.read_bytes() for path in self.logs},
        }

    def leaks(self) -> list[str]:
        """Return the places and kinds of secrets in clear text, without the secrets; the list should be empty."""
        places = self.places()
        matches = set()
        for value, kind in self.secrets().items():
            for name, content in places.items():
                # The verifier belongs in the session while its owner is at Microsoft.
                if (kind, name) != ("code_verifier", "sessions") and _stands_in(value, content):
                    matches.add(f"{kind} in {name}")
        return sorted(matches)


def _stands_in(value: str, content: bytes) -> bool:
    # Search for the middle of a long secret, so that half a token is found, too.
    middle = len(value) // 2
    piece = value[middle - _PIECE // 2 : middle + _PIECE // 2] if len(value) > _LONG else value
    return piece.encode() in content
