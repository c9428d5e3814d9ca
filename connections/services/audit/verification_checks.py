"""Checking the sealed audit trail: every row against its seal, every seal against the one before.

It reads page by page and keeps only one page in memory, so it can look at any number of rows, stop anywhere and go on
later. It changes nothing.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import accumulate, groupby, islice
from typing import Any

from django.db import connection as database

from connections.models import ApiKey, AuditEvent, AuditSeal, Connection, User
from connections.models.audit import AuditAction
from connections.services.audit import sealing, serialization

SEALS_PER_STEP = 20  # seals read at once
MAX_IDS_NAMED = 20  # wrong rows named per seal; more are counted
MOST_FINDINGS = 200  # kept; the first broken seals matter, not the ten thousandth

_WORDS = {"event": "Event", "token_fetch": "Token hand-out"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. ``kind`` is altered, removed, inserted, reordered, seal or published."""

    seal: int
    kind: str
    what: str


@dataclass(slots=True)
class Progress:
    """How far a check is: the last seal it looked at, how many rows so far, and what it found since the last report."""

    seal: int
    rows: int
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention has removed: everything in the seals up to ``seal``."""

    seal: int = 0
    events_upto: int | None = None


def check_seals(*, since: int = 0, upto: int | None = None) -> Iterator[Progress]:
    """Check the seals after ``since`` (which is taken as right) up to ``upto`` (all); reports after every few seals.

    The last report is about what no seal holds the place of. Call it outside of transactions: it may take minutes.
    """
    before = AuditSeal.objects.defer("marks").filter(number=since).first()
    if since and before is None:
        yield Progress(since, 0, [Finding(since, "removed", f"Seal {since} does not exist.")])
    number = since
    pruned, remarks = _pruned()
    living = _Living()
    while seals := _next_seals(number, upto):
        findings = remarks if number == since else []
        for seal in seals:
            findings += _chain(before, seal, expected=number + 1)
            before, number = seal, seal.number
        kept = [seal for seal in seals if seal.number > pruned.seal]
        counted = 0
        for kind, rows, of in _contents(kept):
            found, some = _compare(kind, rows, of, kept, living)
            findings += found
            counted += some
        yield Progress(number, counted, sorted(findings, key=lambda one: one.seal))
    yield Progress(number, 0, _leftovers(number if upto is None else None, pruned))


def _next_seals(number: int, upto: int | None) -> list[AuditSeal]:
    seals = AuditSeal.objects.filter(number__gt=number).order_by("number")
    return list((seals if upto is None else seals.filter(number__lte=upto))[:SEALS_PER_STEP])


# --- The chain ------------------------------------------------------------------------------------


def _chain(before: AuditSeal | None, seal: AuditSeal, *, expected: int) -> list[Finding]:
    """Whether the seal is what it was, and follows the one before."""
    if seal.number > expected:
        missing = f"Seal {expected} is" if seal.number == expected + 1 else f"Seals {expected} to {seal.number - 1} are"
        return [Finding(expected, "removed", f"{missing} missing."), *_own(seal)]
    own = _own(seal)
    if own:
        return own
    previous, after = (before.hash, before.events_upto) if before else (sealing.NOTHING, 0)
    if seal.number == expected and (seal.previous_hash != previous or seal.events_after != after):
        return [
            Finding(
                max(seal.number - 1, 1),
                "seal",
                f"Seal {seal.number} was made after another seal than {seal.number - 1}.",
            )
        ]
    return []


def _own(seal: AuditSeal) -> list[Finding]:
    if sealing.compute_hash(seal) == seal.hash:
        return []
    return [Finding(seal.number, "seal", f"Seal {seal.number} itself was altered: its hash does not fit.")]


# --- The rows -------------------------------------------------------------------------------------


def _contents(
    seals: list[AuditSeal],
) -> Iterator[tuple[serialization.Kind, Iterable[serialization.Row], Callable[[serialization.Row], int]]]:
    """Both kinds of rows of these seals, and which seal each of them belongs to (0: none of these)."""
    if not seals:
        return
    # Ascending even if one was tampered with, which must not make the seals before it look broken.
    ends = list(accumulate((seal.events_upto for seal in seals), max))
    begins = [seal.events_after if seal.number > 1 else None for seal in seals]

    def seal_of_event(row: serialization.Row) -> int:
        place = bisect_left(ends, row[0])
        begin = begins[place]
        return seals[place].number if begin is None or row[0] > begin else 0

    yield serialization.events(), serialization.events_between(begins[0], ends[-1]), seal_of_event
    numbers = {seal.number for seal in seals}
    fetched = serialization.fetches_of(seals[0].number, seals[-1].number)
    yield serialization.fetches(), fetched, lambda row: row[12] if row[12] in numbers else 0


def _compare(
    kind: serialization.Kind,
    rows: Iterable[serialization.Row],
    seal_of: Callable[[serialization.Row], int],
    seals: list[AuditSeal],
    living: _Living,
) -> tuple[list[Finding], int]:
    """What does not fit, and how many rows were looked at."""
    counts: dict[int, int] = {}
    digests: dict[int, str] = {}
    findings: list[Finding] = []
    line, total = kind.line, 0
    for number, group in groupby(rows, key=seal_of):
        digest, count = hashlib.sha256(), 0
        # Piece by piece: somebody may have planted any number of rows.
        while piece := list(islice(group, serialization.PAGE)):
            digest.update("".join([f"{line(row)}\n" for row in piece]).encode())
            count += len(piece)
            for row in _cut_off(kind, piece):
                if not living.fits(kind, row):
                    what = f"{_named(kind, row[0])} refers to somebody or something else."
                    findings.append(Finding(number, "altered", what))
        counts[number], digests[number] = count, digest.hexdigest()
        total += count
    for seal in seals:
        is_event = kind.name == "event"
        right = (seal.events_count, seal.events_hash) if is_event else (seal.fetches_count, seal.fetches_hash)
        if (counts.get(seal.number, 0), digests.get(seal.number, _EMPTY)) != right:
            findings += _diagnosed(kind, seal)
    return findings, total


def _cut_off(kind: serialization.Kind, rows: list[serialization.Row]) -> list[serialization.Row]:
    """The rows of which a reference is not what was sealed: empty, or another."""
    (one, of_one), (other, of_other) = kind.references[0], kind.references[-1]
    return [row for row in rows if row[one] != row[of_one] or row[other] != row[of_other]]


_EMPTY = hashlib.sha256().hexdigest()


class _Living:
    """Who and what still exists: a reference may only be empty when what it pointed to is gone."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[Any, set[int]]] = {}
        for column, model in ((13, User), (10, Connection), (11, ApiKey)):
            self._of[column] = (model, set(model._default_manager.values_list("pk", flat=True)))

    def fits(self, kind: serialization.Kind, row: serialization.Row) -> bool:
        """Whether the row's references lead where they did."""
        for column, sealed in kind.references:
            if row[column] == row[sealed]:
                continue
            if row[column] is not None:
                return False
            model, known = self._of[column]
            # Gone since the check began? Then it may be empty.
            if row[sealed] in known and model._default_manager.filter(pk=row[sealed]).exists():
                return not _still(kind, row, column)
        return True


def _still(kind: serialization.Kind, row: serialization.Row, column: int) -> bool:
    """Whether the reference is still empty when read again."""
    again = serialization.rows(kind, "id = %s", [row[0]])
    return bool(again) and again[0][column] is None


# --- What exactly is wrong ------------------------------------------------------------------------


def _diagnosed(kind: serialization.Kind, seal: AuditSeal) -> list[Finding]:
    """Name the rows that do not fit, by the marks the seal keeps of each."""
    marks = bytes(seal.marks)
    cut = seal.events_count * serialization.PACKED_LENGTH
    if kind.name == "event":
        sealed = dict(serialization.unpack_digests(marks[:cut], after=seal.events_after))
        begin = "id > %s AND " if seal.number > 1 else ""
        bounds = [seal.events_after, seal.events_upto] if begin else [seal.events_upto]
        rows = serialization.rows(kind, f"{begin}id <= %s", bounds, limit=2 * len(sealed) + MAX_IDS_NAMED)
    else:
        sealed = dict(serialization.unpack_digests(marks[cut:], after=0))
        rows = serialization.rows(kind, "seal = %s", [seal.number], limit=2 * len(sealed) + MAX_IDS_NAMED)
    found = {row[0]: serialization.content_digest(kind, row) for row in rows}
    said = list(_differences(kind, sealed, found))
    if not said:
        count = seal.events_count if kind.name == "event" else seal.fetches_count
        said = [("altered", f"{_WORDS[kind.name]}s do not fit: {count} were sealed, {len(found)} are there.")]
    more = len(said) - MAX_IDS_NAMED
    findings = [Finding(seal.number, how, what) for how, what in said[:MAX_IDS_NAMED]]
    return [*findings, Finding(seal.number, said[-1][0], f"And {more} more.")] if more > 0 else findings


def _differences(
    kind: serialization.Kind, sealed: dict[int, bytes], found: dict[int, bytes]
) -> Iterator[tuple[str, str]]:
    removed = {pk: sealed[pk] for pk in sealed.keys() - found.keys()}
    inserted = {pk: found[pk] for pk in found.keys() - sealed.keys()}
    altered = sorted(pk for pk in sealed.keys() & found.keys() if sealed[pk] != found[pk])
    places = {sealed[pk]: pk for pk in altered}
    told: set[int] = set()
    for pk in altered:
        other = places.get(found[pk], pk)
        if other != pk and found[other] == sealed[pk]:
            if pk not in told:
                yield "reordered", f"{_named(kind, pk)} and {other} changed places."
            told |= {pk, other}
        else:
            yield "altered", f"{_named(kind, pk)} was altered."
    moved = {content: pk for pk, content in sorted(inserted.items())}
    for pk, content in sorted(removed.items()):
        if content in moved:
            now = moved.pop(content)
            inserted.pop(now)
            yield "reordered", f"{_named(kind, pk)} was given the number {now}."
        else:
            yield "removed", f"{_named(kind, pk)} was removed."
    for pk in sorted(inserted):
        yield "inserted", f"{_named(kind, pk)} was inserted."


def _named(kind: serialization.Kind, pk: Any) -> str:
    return f"{_WORDS[kind.name]} {pk}"


# --- What retention removed, and what is left over --------------------------------------------------


def _pruned() -> tuple[Pruned, list[Finding]]:
    """What retention says it has removed, and what is wrong with that."""
    events = AuditEvent.objects.filter(action=AuditAction.AUDIT_PRUNED)
    claims = [event for event in events if isinstance(event.changes, dict) and type(event.changes.get("upto")) is int]
    if not claims:
        return Pruned(), []
    claim = max(claims, key=lambda event: int(event.changes["upto"]))
    # That the last of these seals is missing itself is found anyway; it does not make the others break.
    seal = AuditSeal.objects.defer("marks").filter(number__lte=claim.changes["upto"]).first()
    if seal is None:
        return Pruned(), []
    days = claim.changes.get("days")
    findings = []
    if type(days) is not int or days < 1 or _is_ahead(claim) or seal.covers_until > claim.at - timedelta(days=days):
        findings.append(
            Finding(seal.number, "removed", f"Event {claim.pk} says that retention removed what was too young for it.")
        )
    return Pruned(seal.number, seal.events_upto), findings


def _is_ahead(claim: AuditEvent) -> bool:
    """Whether it was dated later than it was sealed; then everything would look old enough."""
    sealed = sealing.seal_containing(claim)
    return sealed is not None and claim.at > sealed.sealed_at + sealing.AHEAD


def last_pruned_seal() -> int:
    """The number of the last seal whose rows retention has removed; 0: none."""
    return _pruned()[0].seal


def _leftovers(newest: int | None, pruned: Pruned) -> list[Finding]:
    """Rows where none may be: among those that were removed, under numbers that were never given out, and token
    hand-outs of seals that do not exist.

    ``newest`` is the number of the last seal, 0 if there is none; None: not all were looked at.
    """
    findings = []
    if pruned.events_upto is not None:
        for kind, where, limit in (
            (serialization.events(), "id <= %s", pruned.events_upto),
            (serialization.fetches(), "seal <= %s", pruned.seal),
        ):
            left = serialization.rows(kind, where, [limit], limit=MAX_IDS_NAMED)
            findings += [
                Finding(pruned.seal, "inserted", f"{_named(kind, row[0])} stands among those that retention removed.")
                for row in left
            ]
    if newest is not None:
        for row in serialization.rows(serialization.fetches(), "seal > %s OR seal < 1", [newest], limit=MAX_IDS_NAMED):
            findings.append(
                Finding(
                    newest + 1,
                    "removed",
                    f"Token hand-out {row[0]} belongs to seal {row[12]}, which is missing.",
                )
            )
        if database.vendor == "postgresql":
            for row in serialization.rows(serialization.events(), f"id > {sealing.GIVEN_OUT}", [], limit=MAX_IDS_NAMED):
                what = f"{_named(serialization.events(), row[0])} was inserted: the database never gave out its number."
                findings.append(Finding(newest + 1, "inserted", what))
    return findings


def tables_without_triggers() -> list[str]:
    """Tables whose guards against changes (the migration audit_guards) are missing."""
    names = {"connections_auditevent", "connections_tokenfetch", "connections_auditseal"}
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute(
                "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname IN "
                "('portal_audit_guard', 'portal_audit_guard_all') AND tgenabled IN ('O', 'A') "
                "GROUP BY tgrelid HAVING count(*) = 2"
            )
        else:
            cursor.execute(
                "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' "
                "AND name IN (tbl_name || '_no_update', tbl_name || '_no_delete') GROUP BY tbl_name HAVING count(*) = 2"
            )
        return sorted(names - {row[0] for row in cursor.fetchall()})


# --- What is known from elsewhere -------------------------------------------------------------------


def compare_published(published: Sequence[tuple[int, str]], *, where: str) -> list[Finding]:
    """Seals as somebody outside has them, compared with those here: what is gone or another one."""
    findings = []
    for start in range(0, len(published), 500):
        part = published[start : start + 500]
        here = dict(AuditSeal.objects.filter(number__in=[number for number, _ in part]).values_list("number", "hash"))
        for number, known in part:
            if number not in here:
                findings.append(Finding(number, "removed", f"Seal {number} stands {where}, but is missing here."))
            elif here[number] != known:
                findings.append(Finding(number, "published", f"Seal {number} is another one than {where}."))
    return findings
