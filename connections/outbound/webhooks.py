"""Signed webhooks according to Standard Webhooks 1.0.0 (standardwebhooks.com).

The signature is HMAC-SHA256 over ``id.timestamp.body``, keyed with the secret's bytes. ``webhook-id`` stays the same in
all attempts, so that a receiver can recognise duplicates.
"""

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
    "streamed": "audit.events",
    "broken": "audit.broken",
    "restored": "audit.restore_declared",
}


def new_secret() -> str:
    """Return a new signing secret of 32 random bytes in the format of the specification."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def body(event: str, *, at: str, data: dict[str, Any]) -> bytes:
    """Return the JSON document; ``at`` is the time of the event (ISO 8601, UTC)."""
    document = {"type": TYPES[event], "timestamp": at, "data": data}
    # Sort the keys, because databases reorder JSON, but every attempt must send the same bytes.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def headers(message_id: str, content: bytes, *, timestamp: int, signing_secrets: Iterable[str]) -> dict[str, str]:
    """Return headers with one signature per secret (two while rotating); ``timestamp`` is in Unix seconds."""
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(message_id, content, timestamp, secret) for secret in signing_secrets),
    }


def sign(message_id: str, content: bytes, timestamp: int, secret: str) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), content))
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
