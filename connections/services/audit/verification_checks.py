"""Check every row against its seal, and every seal against the previous one, page by page, without writing anything."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, groupby, islice
from typing import Any

from django.db import connection as database

from connections.models import ApiKey, AuditSeal, Connection, User
from connections.services.audit import pruning, sealing, serialization
from connections.services.audit.chain import Chain
from connections.services.audit.findings import Finding
from connections.services.audit.serialization import Kind, Row

SEALS_PER_STEP = 20
MAX_IDS_NAMED = 20  # wrong rows named per seal; the rest are only counted
MAX_FINDINGS = 200  # kept per verification; the first broken seals matter most

_LABELS = {"event": "Event", "token_fetch": "Token request"}
_EMPTY = hashlib.sha256().hexdigest()
_MODELS: dict[int, Any] = {13: User, 10: Connection, 11: ApiKey}  # by index of the column that refers to them


@dataclass(slots=True)
class Progress:
    """One step of a check: the last seal checked, and the rows and findings since the previous step."""

    seal: int
    rows: int
    findings: list[Finding] = field(default_factory=list)


def check_seals(*, since: int = 0, upto: int | None = None) -> Iterator[Progress]:
    """Check the seals after ``since`` up to ``upto`` (None: all), and yield the progress every few seals.

    The last Progress covers rows outside all seals. Call this outside transactions, because it may take minutes.
    """
    pruned = pruning.find_pruned()
    chain = Chain(since=since)
    findings = [*chain.begin(), *pruned.findings]
    existing = {column: set(model._default_manager.values_list("pk", flat=True)) for column, model in _MODELS.items()}
    in_range = AuditSeal.objects.order_by("number")
    if upto is not None:
        in_range = in_range.filter(number__lte=upto)
    while seals := list(in_range.filter(number__gt=chain.number)[:SEALS_PER_STEP]):
        emptied = max(chain.number, pruned.seal)
        for seal in seals:
            findings += chain.check_next(seal)
        remaining = [seal for seal in seals if seal.number > pruned.seal]
        counted = 0
        for kind, rows, seal_of in _contents(remaining, after=emptied):
            mismatches, count = _compare(kind, rows, seal_of, remaining, existing)
            findings += mismatches
            counted += count
        yield Progress(chain.number, counted, sorted(findings, key=lambda finding: finding.seal))
        findings = []
    findings += _rows_outside_seals(chain.number if upto is None else None, pruned.seal, pruned.events_upto)
    yield Progress(chain.number, 0, findings)


def _contents(seals: list[AuditSeal], *, after: int) -> Iterator[tuple[Kind, Iterable[Row], Callable[[Row], int]]]:
    """Yield both kinds of rows covered by these seals, with a function from a row to its seal's number (0: none).

    ``after`` is the last seal of the previous step. Token requests that belong to a number between it and these seals
    are yielded too, with the number 0.
    """
    if not seals:
        return
    # Force an ascending order, so that a seal that was tampered with does not make the ones before it look broken.
    ends = list(accumulate((seal.events_upto for seal in seals), max))
    begins = [seal.events_after if seal.number > 1 else None for seal in seals]

    def seal_of_event(row: Row) -> int:
        index = bisect_left(ends, row[0])
        begin = begins[index]
        return seals[index].number if begin is None or row[0] > begin else 0

    yield serialization.events(), serialization.events_between(begins[0], ends[-1]), seal_of_event
    numbers = {seal.number for seal in seals}
    fetches = serialization.fetches_of(after + 1, seals[-1].number)
    yield serialization.fetches(), fetches, lambda row: row[12] if row[12] in numbers else 0


def _compare(
    kind: Kind,
    rows: Iterable[Row],
    seal_of: Callable[[Row], int],
    seals: list[AuditSeal],
    existing: dict[int, set[int]],
) -> tuple[list[Finding], int]:
    counts: dict[int, int] = {}
    digests: dict[int, str] = {}
    findings: list[Finding] = []
    # Unpacked here because this runs for every row. Events have only one pair of columns, so it appears twice.
    (key, sealed_key), (key2, sealed_key2) = kind.references[0], kind.references[-1]
    line, total = kind.line, 0
    for number, group in groupby(rows, key=seal_of):
        digest, count = hashlib.sha256(), 0
        # Go page by page, because any number of rows may have been planted.
        while page := list(islice(group, serialization.PAGE)):
            digest.update("".join([f"{line(row)}\n" for row in page]).encode())
            count += len(page)
            changed = [row for row in page if row[key] != row[sealed_key] or row[key2] != row[sealed_key2]]
            findings += [
                Finding(number, "altered", f"{_label(kind, row[0])} refers to a different object.")
                for row in changed
                if not _is_explained(kind, row, existing)
            ]
            if number == 0 and kind.name == "token_fetch":
                findings += [_without_seal(kind, row) for row in page[:MAX_IDS_NAMED]]
        counts[number], digests[number] = count, digest.hexdigest()
        total += count
    for seal in seals:
        is_event = kind.name == "event"
        sealed = (seal.events_count, seal.events_hash) if is_event else (seal.fetches_count, seal.fetches_hash)
        if (counts.get(seal.number, 0), digests.get(seal.number, _EMPTY)) != sealed:
            findings += _find_wrong_rows(kind, seal)
    return findings, total


def _without_seal(kind: Kind, row: Row) -> Finding:
    return Finding(row[12], "inserted", f"{_label(kind, row[0])} belongs to seal {row[12]}, which is missing.")


def _is_explained(kind: Kind, row: Row, existing: dict[int, set[int]]) -> bool:
    """Whether every reference that differs from its sealed id is empty because the object was deleted."""
    for column, sealed in kind.references:
        if row[column] == row[sealed]:
            continue
        if row[column] is not None:
            return False
        # Read again, because the object or the row may have changed since the check began.
        if row[sealed] in existing[column] and _MODELS[column]._default_manager.filter(pk=row[sealed]).exists():
            current = serialization.rows(kind, "id = %s", [row[0]])
            return not (current and current[0][column] is None)
    return True


def _find_wrong_rows(kind: Kind, seal: AuditSeal) -> list[Finding]:
    """Name the rows that do not match, using the digest of each row in ``seal.marks``."""
    marks = bytes(seal.marks)
    cut = seal.events_count * serialization.PACKED_LENGTH
    if kind.name == "event":
        count, sealed = seal.events_count, dict(serialization.unpack_digests(marks[:cut], after=seal.events_after))
        where, bounds = "id > %s AND id <= %s", [seal.events_after, seal.events_upto]
        if seal.number == 1:
            where, bounds = "id <= %s", bounds[1:]
    else:
        count, sealed = seal.fetches_count, dict(serialization.unpack_digests(marks[cut:], after=0))
        where, bounds = "seal = %s", [seal.number]
    rows = serialization.rows(kind, where, bounds, limit=2 * len(sealed) + MAX_IDS_NAMED)
    current = {row[0]: serialization.content_digest(kind, row) for row in rows}
    differences = list(_differences(kind, sealed, current)) or [
        ("altered", f"{_LABELS[kind.name]}s don't match: {count} were sealed, {len(current)} exist.")
    ]
    findings = [Finding(seal.number, change, what) for change, what in differences[:MAX_IDS_NAMED]]
    more = len(differences) - MAX_IDS_NAMED
    return [*findings, Finding(seal.number, differences[-1][0], f"And {more} more.")] if more > 0 else findings


def _differences(kind: Kind, sealed: dict[int, bytes], current: dict[int, bytes]) -> Iterator[tuple[str, str]]:
    removed = {pk: sealed[pk] for pk in sealed.keys() - current.keys()}
    inserted = {pk: current[pk] for pk in current.keys() - sealed.keys()}
    altered = sorted(pk for pk in sealed.keys() & current.keys() if sealed[pk] != current[pk])
    sealed_ids = {sealed[pk]: pk for pk in altered}
    swapped: set[int] = set()
    for pk in altered:
        other = sealed_ids.get(current[pk], pk)
        if other == pk or current[other] != sealed[pk]:
            yield "altered", f"{_label(kind, pk)} was altered."
            continue
        if pk not in swapped:
            yield "reordered", f"{_label(kind, pk)} and {other} changed places."
        swapped |= {pk, other}
    inserted_ids = {content: pk for pk, content in sorted(inserted.items())}
    for pk, content in sorted(removed.items()):
        if content in inserted_ids:
            new_pk = inserted_ids.pop(content)
            inserted.pop(new_pk)
            yield "reordered", f"{_label(kind, pk)} was given the number {new_pk}."
        else:
            yield "removed", f"{_label(kind, pk)} was removed."
    for pk in sorted(inserted):
        yield "inserted", f"{_label(kind, pk)} was inserted."


def _label(kind: Kind, pk: Any) -> str:
    return f"{_LABELS[kind.name]} {pk}"


def _rows_outside_seals(newest: int | None, pruned_seal: int, pruned_upto: int | None) -> list[Finding]:
    """Find rows that retention should have removed and, unless ``newest`` is None, rows without a valid seal or id.

    A seal is invalid if it does not exist, and an id if the database never issued it.
    """
    events, fetches = serialization.events(), serialization.fetches()
    findings = []
    if pruned_upto is not None:
        for kind, where, limit in ((events, "id <= %s", pruned_upto), (fetches, "seal <= %s", pruned_seal)):
            for row in serialization.rows(kind, where, [limit], limit=MAX_IDS_NAMED):
                what = f"{_label(kind, row[0])} is among the entries that retention removed."
                findings.append(Finding(pruned_seal, "inserted", what))
    if newest is None:
        return findings
    for row in serialization.rows(fetches, "seal > %s OR seal < 1", [newest], limit=MAX_IDS_NAMED):
        what = f"{_label(fetches, row[0])} belongs to seal {row[12]}, which is missing."
        findings.append(Finding(newest + 1, "removed", what))
    if database.vendor == "postgresql":
        for row in serialization.rows(events, f"id > {sealing.LAST_ISSUED_ID}", [], limit=MAX_IDS_NAMED):
            what = f"{_label(events, row[0])} was inserted: the database never issued its number."
            findings.append(Finding(newest + 1, "inserted", what))
    return findings
