"""Prove that one event is part of a seal, without showing any other event (docs/audit.md has the format)."""

import json
from dataclasses import dataclass
from typing import Any

from connections.errors import InvalidInput
from connections.models import AuditEvent, AuditSeal
from connections.services.audit import merkle, seal_format, sealing, serialization

FORMAT = "m365-portal audit proof 1"


@dataclass(frozen=True, slots=True)
class Proven:
    """The content of a valid proof: this event existed when this seal was made."""

    event: dict[str, Any]
    seal: int
    seal_hash: str


class InvalidProof(ValueError):
    """The proof is invalid. The message is a sentence that says why."""


def prove(event: AuditEvent) -> dict[str, Any]:
    """Return the proof as JSON values. Raises InvalidInput if the event cannot be proven."""
    seal = sealing.seal_containing(event)
    if seal is None:
        raise InvalidInput(f"Event {event.pk} is not sealed yet.", action="Try again in a minute.")
    if not seal.root:
        raise InvalidInput(f"Event {event.pk} was sealed before version 0.3, whose seals cannot prove single events.")
    lines, index = _lines(seal, event)
    leaves = [merkle.leaf_hash(line) for line in lines]
    if merkle.root(leaves).hex() != seal.root:
        text = f"The rows of seal {seal.number} are not what was sealed."
        raise InvalidInput(text, action="Run manage.py audit_verify, which names the wrong ones.")
    return {
        "format": FORMAT,
        "line": lines[index].decode(),
        "index": index,
        "rows": len(lines),
        "path": [digest.hex() for digest in merkle.path(leaves, index)],
        "seal": seal_format.published_fields(AuditSeal.objects.get(pk=seal.pk)),
    }


def _lines(seal: AuditSeal, event: AuditEvent) -> tuple[list[bytes], int]:
    """Return the lines of all rows of the seal, events first, and the index of this event's line."""
    events, fetches = serialization.events(), serialization.fetches()
    rows = serialization.rows(events, "id > %s AND id <= %s", [seal.events_after, seal.events_upto])
    index = [row[0] for row in rows].index(event.pk)
    requests = serialization.rows(fetches, "seal = %s", [seal.number])
    return serialization.lines(events, rows) + serialization.lines(fetches, requests), index


def check(proof: Any) -> Proven:
    """Check a proof without the database, and return its content. Raises InvalidProof.

    The proof brings its own seal, so compare the seal's hash with a published one.
    """
    try:
        if proof["format"] != FORMAT:
            raise InvalidProof("This is not a proof in a format that this version knows.")
        seal, event, index, rows = dict(proof["seal"]), json.loads(proof["line"]), proof["index"], proof["rows"]
        leaf, path = merkle.leaf_hash(proof["line"].encode()), [bytes.fromhex(digest) for digest in proof["path"]]
        if type(index) is not int or type(rows) is not int or not isinstance(event, dict):
            raise InvalidProof("The proof is incomplete.")
        root = merkle.root_from_path(leaf, index, rows, path)
        seal_hash, _ = seal.pop("hash"), seal.pop("mac", None)
        if rows != seal["events_count"] + seal["fetches_count"]:
            raise InvalidProof("The proof and its seal disagree about the number of rows.")
        if root is None or root.hex() != seal["root"]:
            raise InvalidProof("The event does not belong to this seal, or it was altered.")
        if seal_format.hash_of(seal) != seal_hash:
            raise InvalidProof("The seal in the proof was altered: its hash doesn't match.")
        return Proven(event, int(seal["number"]), seal_hash)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        if isinstance(problem, InvalidProof):
            raise
        raise InvalidProof("This is not a proof, or a part of it is missing.") from problem
