"""Seal the audit trail: rows are hashed in batches, and each batch is chained to the one before and signed."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from django.db import connection as database
from django.db import transaction
from django.db.models import Max
from django.db.models.expressions import RawSQL

from connections.models import AuditEvent, AuditSeal, AuditSealing, TokenFetch
from connections.models.audit import AuditAction
from connections.services.audit import merkle, published, seal_format, serialization

logger = structlog.get_logger(__name__)

BATCH = 1000  # maximum number of events, and of token requests, in one seal
MAX_SEALS = 2000  # per run
# A minute of token requests is closed this long after it ends. A later request gets a new row.
GRACE = timedelta(minutes=1)
# On PostgreSQL, the last id that the sequence issued. A row with a higher id must have been planted; sealing it would
# leave no room for the events recorded afterwards.
LAST_ISSUED_ID = "(SELECT last_value FROM connections_auditevent_id_seq)"
MAX_CLOCK_SKEW = timedelta(hours=1)  # a minute further in the future comes from a wrong clock and is closed at once


def seal_due(now: datetime, *, batch: int = BATCH) -> int:
    """Seal everything that can be sealed by now; returns the number of new seals. Only one worker seals at a time.

    Seals nothing while published seals are missing from the database, because their numbers must not be used again.
    """
    if missing := published.seals_missing_here():
        logger.error("sealing stopped: published seals are missing", published=missing[0], newest=missing[1])
        return 0
    count = 0
    while count < MAX_SEALS and _seal_next(now, batch):
        count += 1
    return count


def count_unsealed(*, most: int | None = None) -> int:
    """Count the events and token requests that no seal covers yet, at most ``most`` of each."""
    newest = AuditSeal.objects.values_list("events_upto", flat=True).first() or 0
    events = AuditEvent.objects.filter(pk__gt=newest).order_by()[:most]
    return events.count() + TokenFetch.objects.filter(seal=None).order_by()[:most].count()


def seal_containing(event: AuditEvent) -> AuditSeal | None:
    seals = AuditSeal.objects.defer("marks").filter(events_upto__gte=event.pk)
    return seals.order_by("events_upto", "number").first()


def _seal_next(now: datetime, batch: int) -> bool:
    with transaction.atomic():
        state = lock_sealer()
        if state is None:
            return False
        upto = _final_upto(state)
        newest = newest_seal()
        after = newest.events_upto if newest else 0
        events = serialization.rows(serialization.events(), "id > %s AND id <= %s", [after, upto], limit=batch)
        fetches = _closed_fetches(now, batch)
        # The first signed seal is made at once, even without rows, because it confirms all unsigned seals before it.
        is_first_signed = newest is not None and not newest.key_id
        if not events and not fetches and not is_first_signed:
            return False
        seal = _build_seal(newest, events, fetches, now=now)
        seal.save(force_insert=True)
        TokenFetch.objects.filter(pk__in=[row[0] for row in fetches]).update(seal=seal.number)
        return True


def newest_seal() -> AuditSeal | None:
    return AuditSeal.objects.defer("marks").first()


def seal_restore(restore: dict[str, Any], *, now: datetime) -> AuditSeal:
    """Make the seal that declares a restore. Its number follows the highest published number, and it covers no rows.

    Call this in the transaction that records the declaration. It waits for other sealers.
    """
    lock_sealer(wait=True)
    newest = newest_seal()
    seal = _build_seal(newest, [], [], now=now)
    seal.number = max(seal.number, restore["published"] + 1)
    seal.restore = restore | {"follows": newest.number if newest else 0}
    seal_format.sign(seal)
    seal.save(force_insert=True)
    return seal


def is_stalled(now: datetime, *, limit: timedelta) -> bool:
    """Whether events have been waiting for a seal for longer than ``limit``."""
    newest = newest_seal()
    # A recent seal shows that sealing works. Without this check, events dated back would look as if they were waiting.
    if newest is not None and newest.sealed_at > now - limit:
        return False
    waiting = AuditEvent.objects.filter(pk__gt=newest.events_upto if newest else 0)
    return waiting.filter(at__lt=now - limit).exists()


def lock_sealer(*, wait: bool = False) -> AuditSealing | None:
    """Lock the sealer's row until the transaction ends.

    If another sealer holds the lock, returns None or, with ``wait``, waits for it.
    """
    unlocked = AuditSealing.objects.select_for_update(skip_locked=not wait).filter(pk=1)
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
    """Return token requests of past minutes, and lock their rows.

    A late request for one of these minutes waits for the lock, and then adds a new row.
    """
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
    placeholders = ", ".join(["%s"] * len(pks))
    return serialization.rows(serialization.fetches(), f"id IN ({placeholders})", pks)


def _build_seal(
    newest: AuditSeal | None, events: list[serialization.Row], fetches: list[serialization.Row], *, now: datetime
) -> AuditSeal:
    event_kind, fetch_kind = serialization.events(), serialization.fetches()
    after = newest.events_upto if newest else 0
    times = sorted(_moment(row[1], now) for row in [*events, *fetches]) or [now]
    summary = Counter(str(row[2]) for row in events)
    if fetches:
        summary[AuditAction.CONNECTION_TOKEN_FETCHED] = sum(row[6] for row in fetches if type(row[6]) is int)
    event_lines, fetch_lines = serialization.lines(event_kind, events), serialization.lines(fetch_kind, fetches)
    seal = AuditSeal(
        number=newest.number + 1 if newest else 1,
        events_after=after,
        events_upto=events[-1][0] if events else after,
        events_count=len(events),
        events_hash=serialization.digest(event_lines),
        fetches_count=len(fetches),
        fetches_hash=serialization.digest(fetch_lines),
        covers_from=times[0],
        covers_until=times[-1],
        summary=dict(summary),
        marks=serialization.pack_digests(event_kind, events, after=after)
        + serialization.pack_digests(fetch_kind, fetches, after=0),
        root=merkle.root([merkle.leaf_hash(line) for line in [*event_lines, *fetch_lines]]).hex(),
        sealed_at=now,
        previous_hash=newest.hash if newest else seal_format.GENESIS_HASH,
    )
    seal_format.sign(seal)
    return seal


def _moment(value: Any, now: datetime) -> datetime:
    """Parse a time as read by serialization. Falls back to ``now``, as an invalid time must not prevent sealing."""
    try:
        return datetime.fromisoformat(str(value).removesuffix("AD").removesuffix("+00:00")).replace(tzinfo=UTC)
    except ValueError:
        return now
