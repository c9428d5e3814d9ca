"""The format of a seal: the fields that are hashed, the signature, and the line that is published."""

import hashlib
import json
from datetime import UTC
from typing import Any

from django.db.models import Min

from connections.models import AuditSeal
from connections.services.audit import seal_keys

GENESIS_HASH = "0" * 64  # the previous hash of the first seal
_AS_THEY_ARE = (
    "number", "previous_hash", "summary", "events_after", "events_upto", "events_count", "events_hash", "fetches_count",
    "fetches_hash",
)  # fmt: skip


def sealed_fields(seal: AuditSeal) -> dict[str, Any]:
    fields = {name: getattr(seal, name) for name in _AS_THEY_ARE}
    for name in ("covers_from", "covers_until", "sealed_at"):
        fields[name] = getattr(seal, name).astimezone(UTC).isoformat(timespec="microseconds")
    fields["marks_hash"] = hashlib.sha256(bytes(seal.marks)).hexdigest()
    if seal.key_id:  # seals of versions before 0.3 have no signature and no root
        fields |= {"key_id": seal.key_id, "root": seal.root}
        if seal.restore is not None:
            fields["restore"] = seal.restore
    return dict(sorted(fields.items()))


def compute_hash(seal: AuditSeal) -> str:
    """Return the SHA-256 of sealed_fields() as compact JSON with sorted keys, in hex."""
    return hash_of(sealed_fields(seal))


def hash_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(compact_json(fields).encode()).hexdigest()


def sign(seal: AuditSeal) -> None:
    """Set the key, the hash and the signature of a new seal.

    The signature covers the hash, and so all previous seals.
    """
    seal.key_id = seal_keys.configured()[0].id
    seal.hash = compute_hash(seal)
    _, seal.mac = seal_keys.sign(seal_keys.SEAL, seal.hash)


def is_signed(seal: AuditSeal) -> bool:
    return seal_keys.is_signed(seal_keys.SEAL, seal.hash, key_id=seal.key_id, mac=seal.mac)


def rotation() -> seal_keys.Rotation:
    """Return when the current key began to sign seals."""
    signed = AuditSeal.objects.filter(key_id=seal_keys.configured()[0].id)
    return seal_keys.Rotation(signed.aggregate(first=Min("sealed_at"))["first"])


def published_fields(seal: AuditSeal) -> dict[str, Any]:
    """Return sealed_fields() with the seal's hash, and its signature if it has one."""
    return sealed_fields(seal) | {"hash": seal.hash} | ({"mac": seal.mac} if seal.key_id else {})


def published_line(seal: AuditSeal) -> str:
    """Return published_fields() as one line of JSON."""
    return compact_json(published_fields(seal))


def compact_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))
