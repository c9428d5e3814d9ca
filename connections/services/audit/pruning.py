"""Which rows retention has removed, and whether that was allowed. Only signed records of a removal are trusted.

Anybody who can write to the database can insert an event. So the portal signs each removal, with the configured days
and the hash of the last seal whose rows it removed.

The age of rows is taken from their seals, because no row is younger than its seal. The youngest seal up to then counts,
so neither an event dated back nor a clock that was set back makes rows look older.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Case, F, Max, Min, When
from django.db.models.functions import Least

from connections.models import AuditEvent, AuditSeal
from connections.models.audit import AuditAction
from connections.services.audit import seal_format, seal_keys, sealing
from connections.services.audit.findings import Finding
from connections.services.audit.seal_keys import Rotation

_SAYS = "Event {} says that retention removed"


@dataclass(frozen=True, slots=True)
class Pruned:
    """The rows that retention has removed. ``findings`` are about invalid records of removals."""

    seal: int = 0  # the last seal whose rows were removed; 0: none
    events_upto: int | None = None
    findings: tuple[Finding, ...] = ()


def facts_of_removal(last: AuditSeal, *, days: int, at: datetime) -> dict[str, Any]:
    """Return the signed facts for the record that retention removed all rows up to the seal ``last``."""
    facts = {"upto": last.number, "days": days, "seal_hash": last.hash}
    key_id, mac = seal_keys.sign(seal_keys.PRUNING, _signed_text(facts, at))
    return facts | {"key_id": key_id, "mac": mac}


def _signed_text(facts: dict[str, Any], at: datetime) -> str:
    signed = {name: facts.get(name) for name in ("upto", "days", "seal_hash")}
    return seal_format.compact_json(signed | {"at": at.astimezone(UTC).isoformat(timespec="microseconds")})


def last_pruned_seal() -> int:
    """Return the number of the last seal whose rows retention has removed, or 0 if there is none."""
    furthest = _furthest_believed(_records_of_removal())
    return furthest[1].number if furthest else 0


def old_enough(seals: Iterable[AuditSeal], *, before: datetime) -> Iterator[AuditSeal]:
    """Yield consecutive ``seals`` as long as all rows so far are older than ``before``.

    Stops at the first seal that may contain a younger row. Earlier seals than the given ones count too.
    """
    youngest = None
    for seal in seals:
        if youngest is None:
            youngest = _youngest_row(seal.number)
        youngest = max(filter(None, (youngest, _youngest_of(seal))))
        if youngest >= before:
            return
        yield seal


def _youngest_of(seal: AuditSeal) -> datetime:
    """Return the latest time that any row of the seal can be from.

    No row is younger than its seal. Unsigned seals, from versions before 0.3, may be much younger than their rows, so
    the time of their newest row is used if it is earlier.
    """
    return seal.sealed_at if seal.key_id else min(seal.covers_until, seal.sealed_at)


def _youngest_row(upto: int) -> datetime | None:
    """Return the latest time that any row in the seals up to this one can be from."""
    youngest = Case(When(key_id="", then=Least("covers_until", "sealed_at")), default=F("sealed_at"))
    latest: datetime | None = AuditSeal.objects.filter(number__lte=upto).aggregate(latest=Max(youngest))["latest"]
    return latest


def covered_until(upto: int) -> datetime | None:
    """Return the time of the newest row in the seals up to this one.

    A row that is dated later than its seal counts as if it had been made when it was sealed.
    """
    latest: datetime | None = AuditSeal.objects.filter(number__lte=upto).aggregate(
        latest=Max(Least("covers_until", "sealed_at"))
    )["latest"]
    return latest


def find_pruned() -> Pruned:
    """Return the furthest removal with a valid record, with findings about that record and about all invalid ones."""
    records = _records_of_removal()
    hashes = _stored_hashes([event.changes["upto"] for event in records])
    rotation = seal_format.rotation()
    findings = [
        Finding(_number_of_seal(event), "inserted", f"{_SAYS.format(event.pk)} rows, but the portal did not record it.")
        for event in records
        if not _is_believed(event, hashes, rotation)
    ]
    furthest = _furthest_believed(records)
    if furthest is None:
        return Pruned(findings=tuple(findings))
    event, last = furthest
    if not _was_old_enough(event, last):
        findings.append(Finding(last.number, "removed", f"{_SAYS.format(event.pk)} what was too young for it."))
    return Pruned(last.number, last.events_upto, tuple(findings))


def _records_of_removal() -> list[AuditEvent]:
    """Return the events that record removals by retention, the one with the highest seal number first."""
    events = [
        event
        for event in AuditEvent.objects.filter(action=AuditAction.AUDIT_PRUNED)
        if isinstance(event.changes, dict) and type(event.changes.get("upto")) is int
    ]
    return sorted(events, key=lambda event: (event.changes["upto"], event.pk), reverse=True)


def _stored_hashes(numbers: Sequence[int]) -> dict[int, str]:
    hashes: dict[int, str] = {}
    for start in range(0, len(numbers), 500):
        batch = AuditSeal.objects.filter(number__in=numbers[start : start + 500])
        hashes |= dict(batch.values_list("number", "hash"))
    return hashes


def _furthest_believed(records: list[AuditEvent]) -> tuple[AuditEvent, AuditSeal] | None:
    rotation = seal_format.rotation()
    for event in records:
        if not _is_believed(event, _stored_hashes([event.changes["upto"]]), rotation):
            continue
        # If this seal itself is missing, the check of the chain reports it. The rows of the seals before it are gone
        # anyway.
        last = AuditSeal.objects.defer("marks").filter(number__lte=event.changes["upto"]).first()
        return (event, last) if last is not None else None
    return None


def _is_believed(event: AuditEvent, hashes: dict[int, str], rotation: Rotation) -> bool:
    facts = event.changes
    key_id, mac = facts.get("key_id"), facts.get("mac")
    if mac is None:
        sealed_in = sealing.seal_containing(event)
        return sealed_in is not None and _is_of_earlier_version(sealed_in)
    if not seal_keys.is_signed(seal_keys.PRUNING, _signed_text(facts, event.at), key_id=key_id, mac=mac):
        return False
    if facts["upto"] in hashes and hashes[facts["upto"]] != facts.get("seal_hash"):
        return False
    return key_id == seal_keys.configured()[0].id or rotation.allows(key_id, _time_of_sealing(event))


def _time_of_sealing(event: AuditEvent) -> datetime:
    sealed_in = sealing.seal_containing(event) or sealing.newest_seal()
    return sealed_in.sealed_at if sealed_in else event.at


def _number_of_seal(event: AuditEvent) -> int:
    """Return the number of the seal that contains the event, or of the next seal if the event is not sealed yet."""
    sealed_in, newest = sealing.seal_containing(event), sealing.newest_seal()
    return sealed_in.number if sealed_in else newest.number + 1 if newest else 1


def _is_of_earlier_version(seal: AuditSeal) -> bool:
    """Whether the seal may contain events from versions before 0.3, which signed nothing.

    The first signed seal confirms the unsigned ones, and may contain the last events of those versions.
    """
    if not seal.key_id:
        return True
    return seal.number > 1 and not AuditSeal.objects.filter(number__lt=seal.number).exclude(key_id="").exists()


def _was_old_enough(event: AuditEvent, last: AuditSeal) -> bool:
    days, sealed_in = event.changes.get("days"), sealing.seal_containing(event)
    if type(days) is not int or days < 1:
        return False
    if "mac" not in event.changes:
        days = max(days, settings.AUDIT_RETENTION_DAYS)
    # If the clock was ahead, every row looked old enough. So no seal made since may be dated before the removal.
    since = AuditSeal.objects.filter(number__gte=sealed_in.number) if sealed_in else AuditSeal.objects.none()
    earliest = since.aggregate(at=Min("sealed_at"))["at"]
    if earliest is not None and event.at > earliest + sealing.MAX_CLOCK_SKEW:
        return False
    youngest = _youngest_row(last.number)
    try:
        return youngest is None or youngest <= event.at - timedelta(days=days)
    except OverflowError:  # ``days`` is too large for a date
        return False
