"""Signed webhooks after the Standard Webhooks specification 1.0.0 (standardwebhooks.com).

The signature is HMAC-SHA256 over ``id.timestamp.body`` with the secret's bytes; the secret is written "whsec_" and
base64. ``webhook-id`` stays the same over all attempts, so a receiver can tell a repetition.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from typing import Any

PREFIX = "whsec_"

TYPES = {
    "opened": "incident.opened",
    "reminder": "incident.reminder",
    "healed": "incident.healed",
    "expiry": "credential.expiring",
    "test": "test",
    "sealed": "audit.sealed",
}


def new_secret() -> str:
    """A new signing secret: 32 random bytes, as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def body(event: str, *, at: str, data: dict[str, Any]) -> bytes:
    """The JSON document; ``at`` is when it happened (ISO 8601, UTC)."""
    document = {"type": TYPES[event], "timestamp": at, "data": data}
    # Sorted, because databases keep JSON in an order of their own and every attempt must send the same bytes.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def headers(message_id: str, content: bytes, *, timestamp: int, signing_secrets: Iterable[str]) -> dict[str, str]:
    """The three headers and the content type; one signature for each secret (two while one replaces another).

    ``timestamp`` is the moment of this attempt, in Unix seconds.
    """
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            sign(message_id, content, timestamp, signing_secret) for signing_secret in signing_secrets
        ),
    }


def sign(message_id: str, content: bytes, timestamp: int, secret: str) -> str:
    """One signature, version 1."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), content))
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
