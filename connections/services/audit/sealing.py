"""Sealing the audit trail: what is committed is put into batches, and each batch is chained to the one before.

Recording an event knows nothing of this. A worker seals afterwards, so what the newest seal does not hold yet is
protected by the database's guards alone.
"""

from __future__ import annotations

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

NOTHING = "0" * 64  # what the first seal is chained to
BATCH = 1000  # events, and token hand-outs, in one seal at most
MOST = 2000  # seals made by one look
# A minute is closed when it has been over for this long; a fetch noted later gets a row of its own.
GRACE = timedelta(minutes=1)
# On PostgreSQL, the last id that was given out. Whoever writes a row with a higher one has not recorded anything; sealed,
# it would leave no room for what is recorded after it.
GIVEN_OUT = "(SELECT last_value FROM connections_auditevent_id_seq)"
# A minute that lies this far ahead was written by a wrong clock and is closed at once.
AHEAD = timedelta(hours=1)


def seal_due(now: datetime, *, batch: int = BATCH, most: int = MOST) -> int:
    """Seal everything that can be sealed by now; returns how many seals that took.

    Several may call it at once: one of them does the work, the others return 0.
    """
    made = 0
    while made < most and _seal_next(now, batch) is not None:
        made += 1
    return made


def count_unsealed(*, most: int | None = None) -> int:
    """How many events and token hand-outs no seal holds yet; each counted up to ``most`` only."""
    newest = AuditSeal.objects.values_list("events_upto", flat=True).first() or 0
    events = AuditEvent.objects.filter(pk__gt=newest).order_by()[:most]
    return events.count() + TokenFetch.objects.filter(seal=None).order_by()[:most].count()


def seal_containing(event: AuditEvent) -> AuditSeal | None:
    """The seal that holds an event; None if it is not sealed yet."""
    behind = AuditSeal.objects.defer("marks").filter(events_upto__gte=event.pk).order_by("events_upto", "number")
    return behind.first()


def _seal_next(now: datetime, batch: int) -> AuditSeal | None:
    with transaction.atomic():
        state = _lock()
        if state is None:
            return None
        upto = _final_upto(state)
        newest = AuditSeal.objects.defer("marks").first()
        after = newest.events_upto if newest else 0
        events = serialization.rows(serialization.events(), "id > %s AND id <= %s", [after, upto], limit=batch)
        fetches = _closed_fetches(now, batch)
        if not events and not fetches:
            return None
        made = _built(newest, events, fetches, now=now)
        made.save(force_insert=True)
        TokenFetch.objects.filter(pk__in=[row[0] for row in fetches]).update(seal=made.number)
        return made


def _lock() -> AuditSealing | None:
    """The sealer's row, held until the transaction ends; None if another sealer has it."""
    audit_sealing = AuditSealing.objects.select_for_update(skip_locked=True).filter(pk=1).first()
    if audit_sealing is None and not AuditSealing.objects.filter(pk=1).exists():
        AuditSealing.objects.bulk_create([AuditSealing(pk=1)], ignore_conflicts=True)
        audit_sealing = AuditSealing.objects.select_for_update(skip_locked=True).filter(pk=1).first()
    return audit_sealing


# --- Which events are final -------------------------------------------------------------------------


def _final_upto(state: AuditSealing) -> int:
    """The highest id below which no event can appear any more.

    SQLite has one writer at a time, so ids are committed in their order. On PostgreSQL a transaction takes an id long
    before it commits, and holds a lock on the table from before it takes the first one until it has ended. So: read the
    newest id, then the transactions that hold that lock. Once all of these have ended, every lower id is committed or
    will never be. Nobody waits for that; it is looked at again the next time.
    """
    events = AuditEvent.objects.all()
    if database.vendor == "postgresql":
        events = events.filter(pk__lte=RawSQL(GIVEN_OUT, ()))  # noqa: S611 - nothing in it comes from outside
    newest: int = events.aggregate(newest=Max("pk"))["newest"] or 0
    if database.vendor != "postgresql":
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
    """Transactions of others that may hold an id of an event they have not committed yet."""
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND relation = %s::regclass AND pid IS DISTINCT FROM pg_backend_pid()",
            [AuditEvent._meta.db_table],
        )
        return {row[0] for row in cursor.fetchall()}


def _closed_fetches(now: datetime, batch: int) -> list[serialization.Row]:
    """Token hand-outs whose minute is over, locked: whoever still wants to count in one of them waits, and makes another."""
    closed = now - GRACE - timedelta(minutes=1)
    pks = list(
        TokenFetch.objects.select_for_update(of=("self",))
        .filter(seal=None)
        .exclude(minute__gt=closed, minute__lte=now + AHEAD)
        .order_by("pk")
        .values_list("pk", flat=True)[:batch]
    )
    if not pks:
        return []
    places = ", ".join(["%s"] * len(pks))
    return serialization.rows(serialization.fetches(), f"id IN ({places})", pks)


# --- The seal -------------------------------------------------------------------------------------


def _built(
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
        previous_hash=newest.hash if newest else NOTHING,
    )
    seal.hash = compute_hash(seal)
    return seal


def _moment(value: Any, now: datetime) -> datetime:
    """A time as audit_lines reads it; one that is none must not keep the trail from being sealed."""
    try:
        return datetime.fromisoformat(str(value).removesuffix("AD").removesuffix("+00:00")).replace(tzinfo=UTC)
    except ValueError:
        return now


def sealed_fields(seal: AuditSeal) -> dict[str, Any]:
    """Everything the seal's hash covers."""
    return {
        "covers_from": _written(seal.covers_from),
        "covers_until": _written(seal.covers_until),
        "events_after": seal.events_after,
        "events_count": seal.events_count,
        "events_hash": seal.events_hash,
        "events_upto": seal.events_upto,
        "fetches_count": seal.fetches_count,
        "fetches_hash": seal.fetches_hash,
        "marks_hash": hashlib.sha256(bytes(seal.marks)).hexdigest(),
        "number": seal.number,
        "previous_hash": seal.previous_hash,
        "sealed_at": _written(seal.sealed_at),
        "summary": seal.summary,
    }


def compute_hash(seal: AuditSeal) -> str:
    """SHA-256 of the seal's statement as compact JSON with sorted keys; hex."""
    return hashlib.sha256(_line(sealed_fields(seal)).encode()).hexdigest()


def published_line(seal: AuditSeal) -> str:
    """The seal as it is published: its statement and its hash, one line of JSON."""
    return _line(sealed_fields(seal) | {"hash": seal.hash})


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _line(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))
