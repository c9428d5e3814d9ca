"""Check every row against its seal, and every seal against the previous one, page by page, without writing anything."""

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
from connections.services.audit.serialization import Kind, Row

SEALS_PER_STEP = 20
MAX_IDS_NAMED = 20  # wrong rows named per seal; the rest are only counted
MAX_FINDINGS = 200  # kept per verification; the first broken seals matter most

_LABELS = {"event": "Event", "token_fetch": "Token hand-out"}
_EMPTY = hashlib.sha256().hexdigest()
_MODELS: dict[int, Any] = {13: User, 10: Connection, 11: ApiKey}  # by index of the column that refers to them


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch. ``kind`` is altered, removed, inserted, reordered, seal or published."""

    seal: int
    kind: str
    what: str


@dataclass(slots=True)
class Progress:
    """One step of a check: the last seal checked, and the rows and findings since the previous step."""

    seal: int
    rows: int
    findings: list[Finding] = field(default_factory=list)


def check_seals(*, since: int = 0, upto: int | None = None) -> Iterator[Progress]:
    """Check the seals after ``since`` (itself trusted) up to ``upto`` (None: all), reporting every few seals.

    The last report covers rows outside all seals. Call this outside transactions, because it may take minutes.
    """
    before = AuditSeal.objects.defer("marks").filter(number=since).first()
    if since and before is None:
        yield Progress(since, 0, [Finding(since, "removed", f"Seal {since} does not exist.")])
    number = since
    pruned_seal, pruned_upto, pruned_findings = _pruned()
    existing = {column: set(model._default_manager.values_list("pk", flat=True)) for column, model in _MODELS.items()}
    in_range = AuditSeal.objects.order_by("number")
    if upto is not None:
        in_range = in_range.filter(number__lte=upto)
    while seals := list(in_range.filter(number__gt=number)[:SEALS_PER_STEP]):
        findings = pruned_findings if number == since else []
        for seal in seals:
            findings += _check_chain(before, seal, expected=number + 1)
            before, number = seal, seal.number
        kept = [seal for seal in seals if seal.number > pruned_seal]
        counted = 0
        for kind, rows, seal_of in _contents(kept):
            mismatches, count = _compare(kind, rows, seal_of, kept, existing)
            findings += mismatches
            counted += count
        yield Progress(number, counted, sorted(findings, key=lambda finding: finding.seal))
    yield Progress(number, 0, _rows_outside_seals(number if upto is None else None, pruned_seal, pruned_upto))


def _check_chain(before: AuditSeal | None, seal: AuditSeal, *, expected: int) -> list[Finding]:
    findings = []
    if seal.number > expected:
        missing = f"Seal {expected} is" if seal.number == expected + 1 else f"Seals {expected} to {seal.number - 1} are"
        findings.append(Finding(expected, "removed", f"{missing} missing."))
    if sealing.compute_hash(seal) != seal.hash:
        what = f"Seal {seal.number} itself was altered: its hash does not fit."
        return [*findings, Finding(seal.number, "seal", what)]
    previous, after = (before.hash, before.events_upto) if before else (sealing.GENESIS_HASH, 0)
    if seal.number == expected and (seal.previous_hash != previous or seal.events_after != after):
        what = f"Seal {seal.number} was made after another seal than {seal.number - 1}."
        findings.append(Finding(max(seal.number - 1, 1), "seal", what))
    return findings


def _contents(seals: list[AuditSeal]) -> Iterator[tuple[Kind, Iterable[Row], Callable[[Row], int]]]:
    """Return both kinds of rows covered by these seals, with a function from a row to its seal's number (0: none)."""
    if not seals:
        return
    # Force an ascending order, so that a seal that was tampered with does not make the ones before it look broken.
    ends = list(accumulate((seal.events_upto for seal in seals), max))
    begins = [seal.events_after if seal.number > 1 else None for seal in seals]

    def seal_of_event(row: Row) -> int:
        place = bisect_left(ends, row[0])
        begin = begins[place]
        return seals[place].number if begin is None or row[0] > begin else 0

    yield serialization.events(), serialization.events_between(begins[0], ends[-1]), seal_of_event
    numbers = {seal.number for seal in seals}
    fetches = serialization.fetches_of(seals[0].number, seals[-1].number)
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
                Finding(number, "altered", f"{_label(kind, row[0])} refers to somebody or something else.")
                for row in changed
                if not _is_explained(kind, row, existing)
            ]
        counts[number], digests[number] = count, digest.hexdigest()
        total += count
    for seal in seals:
        is_event = kind.name == "event"
        sealed = (seal.events_count, seal.events_hash) if is_event else (seal.fetches_count, seal.fetches_hash)
        if (counts.get(seal.number, 0), digests.get(seal.number, _EMPTY)) != sealed:
            findings += _find_wrong_rows(kind, seal)
    return findings, total


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
        ("altered", f"{_LABELS[kind.name]}s do not fit: {count} were sealed, {len(current)} are there.")
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


def last_pruned_seal() -> int:
    """Return the number of the last seal whose rows retention has removed, or 0 if there is none."""
    return _pruned()[0]


def _pruned() -> tuple[int, int | None, list[Finding]]:
    """Return the last seal that retention recorded as pruned, its last event id, and findings about that record."""
    events = AuditEvent.objects.filter(action=AuditAction.AUDIT_PRUNED)
    claims = [event for event in events if isinstance(event.changes, dict) and type(event.changes.get("upto")) is int]
    if not claims:
        return 0, None, []
    claim = max(claims, key=lambda event: int(event.changes["upto"]))
    # If that very seal is missing, the check of the chain reports it; the seals before it are still pruned.
    seal = AuditSeal.objects.defer("marks").filter(number__lte=claim.changes["upto"]).first()
    if seal is None:
        return 0, None, []
    days = claim.changes.get("days")
    claim_seal = sealing.seal_containing(claim)
    # An event dated later than its seal would make everything look old enough to prune.
    is_ahead = claim_seal is not None and claim.at > claim_seal.sealed_at + sealing.MAX_CLOCK_SKEW
    findings = []
    if type(days) is not int or days < 1 or is_ahead or seal.covers_until > claim.at - timedelta(days=days):
        what = f"Event {claim.pk} says that retention removed what was too young for it."
        findings.append(Finding(seal.number, "removed", what))
    return seal.number, seal.events_upto, findings


def _rows_outside_seals(newest: int | None, pruned_seal: int, pruned_upto: int | None) -> list[Finding]:
    """Find rows that should be gone and, unless ``newest`` is None, rows with ids never issued or missing seals."""
    events, fetches = serialization.events(), serialization.fetches()
    findings = []
    if pruned_upto is not None:
        for kind, where, limit in ((events, "id <= %s", pruned_upto), (fetches, "seal <= %s", pruned_seal)):
            for row in serialization.rows(kind, where, [limit], limit=MAX_IDS_NAMED):
                what = f"{_label(kind, row[0])} stands among those that retention removed."
                findings.append(Finding(pruned_seal, "inserted", what))
    if newest is None:
        return findings
    for row in serialization.rows(fetches, "seal > %s OR seal < 1", [newest], limit=MAX_IDS_NAMED):
        what = f"{_label(fetches, row[0])} belongs to seal {row[12]}, which is missing."
        findings.append(Finding(newest + 1, "removed", what))
    if database.vendor == "postgresql":
        for row in serialization.rows(events, f"id > {sealing.LAST_ISSUED_ID}", [], limit=MAX_IDS_NAMED):
            what = f"{_label(events, row[0])} was inserted: the database never gave out its number."
            findings.append(Finding(newest + 1, "inserted", what))
    return findings


def tables_without_triggers() -> list[str]:
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


def compare_published(published: Sequence[tuple[int, str]], *, where: str) -> list[Finding]:
    """Compare known ``published`` seals (number, hash) with the stored ones; ``where`` completes the sentence."""
    findings = []
    for start in range(0, len(published), 500):
        batch = published[start : start + 500]
        stored = dict(
            AuditSeal.objects.filter(number__in=[number for number, _ in batch]).values_list("number", "hash")
        )
        for number, known in batch:
            if number not in stored:
                findings.append(Finding(number, "removed", f"Seal {number} stands {where}, but is missing here."))
            elif stored[number] != known:
                findings.append(Finding(number, "published", f"Seal {number} is another one than {where}."))
    return findings
