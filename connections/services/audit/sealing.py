"""Seal the audit trail: rows are hashed in batches, and each batch is chained to the one before."""

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection as database
from django.db import transaction
from django.db.models import Max
from django.db.models.expressions import RawSQL

from connections.models import AuditEvent, AuditSeal, AuditSealing, TokenFetch
from connections.models.audit import AuditAction
from connections.services.audit import serialization

GENESIS_HASH = "0" * 64  # the previous hash of the first seal
BATCH = 1000  # maximum number of events, and of token requests, in one seal
MAX_SEALS = 2000  # per run
# A minute of token requests is closed this long after it ends. A later request gets a new row.
GRACE = timedelta(minutes=1)
# On PostgreSQL, the last id that the sequence issued. A row with a higher id must have been planted; sealing it would
# leave no room for the events recorded afterwards.
LAST_ISSUED_ID = "(SELECT last_value FROM connections_auditevent_id_seq)"
MAX_CLOCK_SKEW = timedelta(hours=1)  # a minute further in the future comes from a wrong clock and is closed at once
_SEALED_AS_THEY_ARE = (
    "number", "previous_hash", "summary", "events_after", "events_upto", "events_count", "events_hash", "fetches_count",
    "fetches_hash",
)  # fmt: skip


def seal_due(now: datetime, *, batch: int = BATCH) -> int:
    """Seal everything that can be sealed by now; returns the number of new seals. Only one worker seals at a time."""
    count = 0
    while count < MAX_SEALS and _seal_next(now, batch):
        count += 1
    return count


def count_unsealed(*, most: int | None = None) -> int:
    """Count the events and token requests that no seal covers yet. Stops counting each of the two at ``most``."""
    newest = AuditSeal.objects.values_list("events_upto", flat=True).first() or 0
    events = AuditEvent.objects.filter(pk__gt=newest).order_by()[:most]
    return events.count() + TokenFetch.objects.filter(seal=None).order_by()[:most].count()


def seal_containing(event: AuditEvent) -> AuditSeal | None:
    seals = AuditSeal.objects.defer("marks").filter(events_upto__gte=event.pk)
    return seals.order_by("events_upto", "number").first()


def _seal_next(now: datetime, batch: int) -> bool:
    with transaction.atomic():
        state = _lock()
        if state is None:
            return False
        upto = _final_upto(state)
        newest = AuditSeal.objects.defer("marks").first()
        after = newest.events_upto if newest else 0
        events = serialization.rows(serialization.events(), "id > %s AND id <= %s", [after, upto], limit=batch)
        fetches = _closed_fetches(now, batch)
        if not events and not fetches:
            return False
        seal = _build_seal(newest, events, fetches, now=now)
        seal.save(force_insert=True)
        TokenFetch.objects.filter(pk__in=[row[0] for row in fetches]).update(seal=seal.number)
        return True


def _lock() -> AuditSealing | None:
    """Lock the sealer's row until the transaction ends. Returns None if another sealer has locked it."""
    unlocked = AuditSealing.objects.select_for_update(skip_locked=True).filter(pk=1)
    state = unlocked.first()
    if state is None and not AuditSealing.objects.filter(pk=1).exists():
        AuditSealing.objects.bulk_create([AuditSealing(pk=1)], ignore_conflicts=True)
        state = unlocked.first()
    return state


def _final_upto(state: AuditSealing) -> int:
    """Return the highest id up to which no more events can appear.

    SQLite has one writer at a time, so ids are committed in order. On PostgreSQL every transaction that takes an event
    id locks the table first, and holds the lock until it ends. So we read the newest id and then list the transactions
    that hold the lock: once they have all ended, every id up to that one is either committed or will never be used. We
    do not wait for them, because the next run checks again.
    """
    events, is_postgresql = AuditEvent.objects.all(), database.vendor == "postgresql"
    if is_postgresql:
        events = events.filter(pk__lte=RawSQL(LAST_ISSUED_ID, ()))  # noqa: S611 - nothing in it comes from outside
    newest: int = events.aggregate(newest=Max("pk"))["newest"] or 0
    if not is_postgresql:
        return newest
    writers = _writers()
    before = (state.final_upto, state.pending_upto)
    if not writers:
        state.final_upto, state.pending_upto, state.pending_transactions = newest, None, []
    elif state.pending_upto is not None and not writers.intersection(state.pending_transactions):
        state.final_upto, state.pending_upto = state.pending_upto, None
    if writers and state.pending_upto is None and newest > state.final_upto:
        state.pending_upto, state.pending_transactions = newest, sorted(writers)
    if before != (state.final_upto, state.pending_upto):
        state.save(update_fields=["final_upto", "pending_upto", "pending_transactions"])
    return state.final_upto


def _writers() -> set[str]:
    """Return other transactions that may hold the id of an event they have not committed yet."""
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND relation = %s::regclass AND pid IS DISTINCT FROM pg_backend_pid()",
            [AuditEvent._meta.db_table],
        )
        return {row[0] for row in cursor.fetchall()}


def _closed_fetches(now: datetime, batch: int) -> list[serialization.Row]:
    """Return token requests of past minutes, locked: a late request for one of them waits, and then adds a new row."""
    closed = now - GRACE - timedelta(minutes=1)
    pks = list(
        TokenFetch.objects.select_for_update(of=("self",))
        .filter(seal=None)
        .exclude(minute__gt=closed, minute__lte=now + MAX_CLOCK_SKEW)
        .order_by("pk")
        .values_list("pk", flat=True)[:batch]
    )
    if not pks:
        return []
    places = ", ".join(["%s"] * len(pks))
    return serialization.rows(serialization.fetches(), f"id IN ({places})", pks)


def _build_seal(
    newest: AuditSeal | None, events: list[serialization.Row], fetches: list[serialization.Row], *, now: datetime
) -> AuditSeal:
    event_kind, fetch_kind = serialization.events(), serialization.fetches()
    after = newest.events_upto if newest else 0
    times = sorted(_moment(row[1], now) for row in [*events, *fetches])
    summary = Counter(str(row[2]) for row in events)
    if fetches:
        summary[AuditAction.CONNECTION_TOKEN_FETCHED] = sum(row[6] for row in fetches if type(row[6]) is int)
    seal = AuditSeal(
        number=newest.number + 1 if newest else 1,
        events_after=after,
        events_upto=events[-1][0] if events else after,
        events_count=len(events),
        events_hash=serialization.digest(event_kind, events),
        fetches_count=len(fetches),
        fetches_hash=serialization.digest(fetch_kind, fetches),
        covers_from=times[0],
        covers_until=times[-1],
        summary=dict(summary),
        marks=serialization.pack_digests(event_kind, events, after=after)
        + serialization.pack_digests(fetch_kind, fetches, after=0),
        sealed_at=now,
        previous_hash=newest.hash if newest else GENESIS_HASH,
    )
    seal.hash = compute_hash(seal)
    return seal


def _moment(value: Any, now: datetime) -> datetime:
    """Parse a time as read by serialization. Falls back to ``now``, as an invalid time must not prevent sealing."""
    try:
        return datetime.fromisoformat(str(value).removesuffix("AD").removesuffix("+00:00")).replace(tzinfo=UTC)
    except ValueError:
        return now


def sealed_fields(seal: AuditSeal) -> dict[str, Any]:
    fields = {name: getattr(seal, name) for name in _SEALED_AS_THEY_ARE}
    for name in ("covers_from", "covers_until", "sealed_at"):
        fields[name] = getattr(seal, name).astimezone(UTC).isoformat(timespec="microseconds")
    fields["marks_hash"] = hashlib.sha256(bytes(seal.marks)).hexdigest()
    return dict(sorted(fields.items()))


def compute_hash(seal: AuditSeal) -> str:
    """Return the SHA-256 of sealed_fields() as compact JSON with sorted keys, in hex."""
    return hashlib.sha256(_json(sealed_fields(seal)).encode()).hexdigest()


def published_line(seal: AuditSeal) -> str:
    """Return sealed_fields() and the seal's hash as one line of JSON."""
    return _json(sealed_fields(seal) | {"hash": seal.hash})


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))
