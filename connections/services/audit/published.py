"""Published seals: read the seals that were written outside the database, and compare them with the stored ones."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from django.conf import settings

from connections.models import AuditSeal
from connections.services.audit import restores, seal_format
from connections.services.audit.findings import Finding
from connections.services.audit.restores import Restore

_BATCH = 500
_TAIL = 256 * 1024  # bytes to read from the end of the file when only the newest seals are needed


class Unreadable(ValueError):
    """A file of published seals cannot be read. The message is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class PublishedSeal:
    number: int
    hash: str
    # The hashes of the seals that this one continues. Empty if only its number and hash are known.
    continues: tuple[str, ...] = ()


def parse_line(line: str) -> PublishedSeal:
    """Parse one line of a file of published seals.

    Raises ValueError if the line is not a seal or the seal was altered, and KeyError or TypeError if its restore is
    malformed.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict) or type(fields.get("number")) is not int or not isinstance(fields.get("hash"), str):
        raise ValueError("is no seal")
    number, known = fields["number"], fields.pop("hash")
    fields.pop("mac", None)
    if "previous_hash" not in fields:  # a note of number and hash is enough
        return PublishedSeal(number, known)
    if seal_format.hash_of(fields) != known:
        raise ValueError("was altered: its hash doesn't match")
    lost_head = fields["restore"]["published_hash"] if fields.get("restore") else ""
    return PublishedSeal(number, known, tuple(filter(None, (fields["previous_hash"], lost_head))))


def read_file(path: str, *, only_tail: bool = False) -> Iterator[PublishedSeal]:
    """Yield the published seals in a file, ignoring incomplete lines. Raises Unreadable."""
    try:
        with open(path, "rb") as file:
            is_cut = only_tail and file.seek(0, os.SEEK_END) > _TAIL
            file.seek(-_TAIL if is_cut else 0, os.SEEK_END if is_cut else os.SEEK_SET)
            if is_cut:
                file.readline()  # the rest of a line
            yield from _parse_lines(path, file)
    except OSError as problem:
        raise Unreadable(f"{path} cannot be read: {problem.strerror}.") from problem


def _parse_lines(path: str, lines: Iterable[bytes]) -> Iterator[PublishedSeal]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield parse_line(line.decode())
        except (ValueError, KeyError, TypeError) as error:
            is_half = line.startswith(b"{") and isinstance(error, json.JSONDecodeError)
            if is_half or not line.endswith(b"\n"):
                continue  # a full disk cut the line off, and the seal was published again
            reason = error if str(error).startswith(("is ", "was ")) else "is no seal"
            raise Unreadable(f"Line {number} of {path} {reason}.") from error


def read_configured(*, only_tail: bool = False) -> Iterator[PublishedSeal]:
    """Yield the seals in AUDIT_SEAL_FILE, if it is set and exists. Raises Unreadable."""
    if settings.AUDIT_SEAL_FILE and os.path.exists(settings.AUDIT_SEAL_FILE):
        yield from read_file(settings.AUDIT_SEAL_FILE, only_tail=only_tail)


def seals_missing_here() -> tuple[int, int] | None:
    """Return the highest seal numbers in AUDIT_SEAL_FILE and in the database, or None if no seal is missing here.

    Seals are missing after a backup was restored or someone removed them.
    """
    try:
        # Read the file before the database, because a seal is stored before it is published.
        highest = max((seal.number for seal in read_configured(only_tail=True) if seal.continues), default=0)
    except Unreadable:
        return None  # verification reports it
    newest = AuditSeal.objects.values_list("number", flat=True).first() or 0
    return (highest, newest) if highest > newest else None


def compare(published: Iterable[PublishedSeal], *, where: str) -> list[Finding]:
    """Compare published seals with the stored ones, and return the differences. Raises Unreadable.

    ``where`` says in the findings where the seals were published.
    """
    declared = restores.declared()
    findings: list[Finding] = []
    lost: list[PublishedSeal] = []
    for seal, stored in with_stored(published):
        if any(restore.covers(seal.number) for restore in declared) and stored != seal.hash:
            lost.append(seal)
        elif stored is None:
            findings.append(Finding(seal.number, "removed", f"Seal {seal.number} is {where}, but is missing here."))
        elif stored != seal.hash:
            findings.append(Finding(seal.number, "published", f"Seal {seal.number} differs from the one {where}."))
    return findings + _not_explained(lost, declared, where)


def with_stored(published: Iterable[PublishedSeal]) -> Iterator[tuple[PublishedSeal, str | None]]:
    """Yield each published seal with the hash that is stored under its number."""
    waiting = iter(published)
    while batch := list(islice(waiting, _BATCH)):
        numbers = [seal.number for seal in batch]
        stored = dict(AuditSeal.objects.filter(number__in=numbers).values_list("number", "hash"))
        yield from ((seal, stored.get(seal.number)) for seal in batch)


def continued_by(seals: Iterable[PublishedSeal], heads: Iterable[str]) -> set[str]:
    """Return ``heads`` and the hashes of all seals that they continue, as far back as ``seals`` goes."""
    by_hash = {seal.hash: seal for seal in seals}
    reached: set[str] = set()
    waiting = list(heads)
    while waiting:
        known = waiting.pop()
        if known not in reached:
            reached.add(known)
            waiting += by_hash[known].continues if known in by_hash else ()
    return reached


def _not_explained(lost: list[PublishedSeal], declared: list[Restore], where: str) -> list[Finding]:
    """Return a finding for each lost seal that no declared restore explains.

    A restore explains only the seals that lead to the highest published one.
    """
    heads = {restore.published: restore.published_hash for restore in declared}
    reached = continued_by(lost, heads.values())
    return [
        Finding(seal.number, "published", f"No declared restore explains the loss of seal {seal.number} {where}.")
        for seal in lost
        if seal.hash not in reached and (seal.continues or seal.number in heads)
    ]
