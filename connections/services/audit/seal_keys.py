"""The keys that sign seals, verifications and prunings, so that nobody can forge these with the database alone.

AUDIT_SEAL_KEYS lists the keys: the first one signs, and all of them verify. SECRET_KEY is always the last one, so a
portal without AUDIT_SEAL_KEYS signs with SECRET_KEY, and setting AUDIT_SEAL_KEYS later is a rotation like any other.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

SEAL, VERIFICATION, PRUNING = "seal", "verification", "pruning"
# After a new key has begun to sign, processes that still have the old settings may sign with an old key for this long.
ROTATION = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SealKey:
    id: str  # stored with everything that the key signed; does not reveal the key
    secret: bytes = field(repr=False)


def configured() -> tuple[SealKey, ...]:
    return tuple(_derive(text) for text in (*settings.AUDIT_SEAL_KEYS, settings.SECRET_KEY))


@lru_cache(maxsize=64)
def _derive(text: str) -> SealKey:
    """Derive a signing key and its id by HKDF-SHA256 (RFC 5869).

    So seals are never signed with the same key as Django's own signatures, which also use SECRET_KEY.
    """
    derived = HKDF(hashes.SHA256(), length=40, salt=None, info=b"audit trail seals").derive(text.encode())
    return SealKey(derived[32:].hex(), derived[:32])


def sign(purpose: str, message: str) -> tuple[str, str]:
    """Return the id of the first key, and its HMAC-SHA256 over ``purpose:message`` in hex."""
    key = configured()[0]
    return key.id, _mac(key, purpose, message)


def _mac(key: SealKey, purpose: str, message: str) -> str:
    return hmac.new(key.secret, f"{purpose}:{message}".encode(), hashlib.sha256).hexdigest()


def is_signed(purpose: str, message: str, *, key_id: object, mac: object) -> bool:
    """Whether a configured key signed the message. ``key_id`` and ``mac`` are untrusted and may have any type."""
    if not isinstance(key_id, str) or not isinstance(mac, str) or not mac.isascii():
        return False
    keys = [key for key in configured() if key.id == key_id]
    return any(hmac.compare_digest(_mac(key, purpose, message), mac) for key in keys)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The time at which the current key began to sign.

    Old keys may have been stolen, so their signatures are accepted only until ROTATION after that time.
    """

    began_at: datetime | None

    def allows(self, key_id: str, at: datetime) -> bool:
        """Whether something signed at this time may have this key's signature."""
        return key_id == configured()[0].id or self.began_at is None or at <= self.began_at + ROTATION
