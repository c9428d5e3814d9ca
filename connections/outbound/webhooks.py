"""Signed webhooks according to Standard Webhooks 1.0.0 (standardwebhooks.com).

The signature is HMAC-SHA256 over ``id.timestamp.body``, and its key is the secret's bytes. All attempts have the same
``webhook-id``, so that a receiver can recognise duplicates.
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
    """Return the JSON body. ``at`` is the time of the event (ISO 8601, UTC)."""
    document = {"type": TYPES[event], "timestamp": at, "data": data}
    # Sort the keys. Databases reorder JSON, but all attempts must send the same bytes.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def headers(message_id: str, content: bytes, *, timestamp: int, signing_secrets: Iterable[str]) -> dict[str, str]:
    """Return the headers, with one signature per secret (two during a rotation). ``timestamp`` is in Unix seconds."""
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
