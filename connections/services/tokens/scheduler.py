"""Keep connections alive: claim those that are due, request tokens, and store the responses.

The rows are the queue. A claim moves ``refresh_after`` forward by a lease in one conditional statement, so any number
of workers can share the work. If a worker dies, its connections are delayed only by the lease. Microsoft is called
outside any transaction. One canary per app registration goes first, so that a rejected credential or an outage costs
one request instead of one per connection.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection as database
from django.db import transaction
from django.db.models import F, QuerySet
from django.utils.timezone import make_aware

from connections import audit
from connections.access import permissions, roles
from connections.errors import MicrosoftUnavailable, NothingToCheck, TokenUnavailable, UnreadableSecret
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import AppConsent, AppRegistration, Connection, User
from connections.models.audit import AuditAction
from connections.services.people import ownership_transfer
from connections.services.registry import app_consents
from connections.services.tokens import apply_results, batch_client, refresh_locks
from connections.services.tokens.apply_results import Summary
from connections.services.tokens.batch_results import DueConnection

LEASE = timedelta(minutes=5)  # longer than any batch can take
IN_USE_FOR = timedelta(seconds=30)  # a connection whose refresh token was in use is due again after this time
CHECK_PATIENCE = 10.0  # seconds for which a manual check waits for a refresh in progress
CANARY_EVERY = timedelta(minutes=1)
MOST_CANARIES = 200  # tenants per sweep in which a rejected app registration is tried

_CONNECTION, _APP, _CONSENT = (model._meta.db_table for model in (Connection, AppRegistration, AppConsent))
_FIELDS = ["id", *(field.name for field in fields(DueConnection) if field.name != "pk")]
_COLUMNS = {name: f"{_CONNECTION}.{name}" for name in _FIELDS} | {
    "identity": f"CAST({_CONNECTION}.identity AS text)",
    # Needed only after an ambiguous refusal, and as large as all other columns together.
    "previous_refresh_token": (
        f"CASE WHEN {_CONNECTION}.suspected_code <> '' THEN {_CONNECTION}.previous_refresh_token END"
    ),
}
_RETURNING = f"RETURNING {', '.join(_COLUMNS.values())}"
_SUSPECTED_AT, _HOSTS = _FIELDS.index("suspected_at"), _FIELDS.index("hosts")
# The statement contains the statuses as text, so that the planner can use the partial index.
_STATUSES = ", ".join(f"'{status}'" for status in Connection.KEPT_ALIVE)
_CLAIM = f"""
WITH due AS (
    SELECT c.id FROM {_CONNECTION} c JOIN {_APP} a ON a.id = c.app_registration_id
    JOIN {_CONSENT} t ON t.id = c.app_consent_id
    WHERE c.status IN ({_STATUSES}) AND c.refresh_after <= %s
      AND a.rejected_at IS NULL AND t.rejected_at IS NULL AND (t.paused_until IS NULL OR t.paused_until <= %s)
    ORDER BY c.refresh_after LIMIT %s {{lock}}
)
UPDATE {_CONNECTION} SET refresh_after = %s FROM due WHERE {_CONNECTION}.id = due.id {_RETURNING}
"""  # noqa: S608 - names of our own tables and columns
_CLAIM_ONE = f"UPDATE {_CONNECTION} SET refresh_after = %s WHERE id = %s {_RETURNING}"  # noqa: S608


def claim(*, now: datetime, limit: int) -> list[DueConnection]:
    """Claim up to ``limit`` due connections. No other worker gets them until the lease expires."""
    moment, until = (database.ops.adapt_datetimefield_value(time) for time in (now, now + LEASE))
    lock = "FOR UPDATE OF c SKIP LOCKED" if database.vendor == "postgresql" else ""
    return _run_claim(_CLAIM.format(lock=lock), (moment, moment, limit, until))


def claim_one(pk: int, *, now: datetime) -> list[DueConnection]:
    """Claim one connection, even if it is not due (for "Check now" and canaries)."""
    return _run_claim(_CLAIM_ONE, (database.ops.adapt_datetimefield_value(now + LEASE), pk))


def _run_claim(sql: str, parameters: tuple[Any, ...]) -> list[DueConnection]:
    with transaction.atomic(), database.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows = cursor.fetchall()
    return [_due_connection(*row) for row in rows]


def _due_connection(*values: Any) -> DueConnection:
    row = list(values)
    row[_SUSPECTED_AT], row[_HOSTS] = _as_datetime(row[_SUSPECTED_AT]), _as_dict(row[_HOSTS])
    return DueConnection(*row)


def _as_dict(value: dict[str, str] | str) -> dict[str, str]:
    """Parse JSON, which both databases return as text."""
    content: dict[str, str] = json.loads(value) if isinstance(value, str) else value
    return content


def _as_datetime(value: datetime | str | None) -> datetime | None:
    """Parse a time, which SQLite returns as text in UTC."""
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else make_aware(moment, UTC)


def sweep(
    *,
    now: datetime,
    limit: int | None = None,
    clock: Callable[[], datetime] | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
    report: Callable[[], None] = lambda: None,
) -> Summary:
    """Refresh all due connections in batches, and retry rejected app registrations. Returns the counts.

    ``clock`` returns the time of a batch (default: ``now``). Once ``is_stopping`` returns True, connections that were
    claimed but not sent are made due again, and the results of requests that were sent are still stored. ``report`` is
    called after each time results have been stored.
    """
    size = limit or settings.SWEEP_BATCH
    clock = clock or (lambda: now)
    total = retry_rejected_apps(now=now)
    with refresh_locks.GrantLocks() as locks:
        claims = _claims(size, clock, locks)
        for results in batch_client.request_batches(lambda: next(claims, []), is_stopping=is_stopping):
            moment = clock()
            total += apply_results.apply(results, now=moment)
            apply_results.postpone(results, now=moment)
            locks.release(due.pk for result in results for due in result.dues)
            report()
    return total


def _claims(size: int, clock: Callable[[], datetime], locks: refresh_locks.GrantLocks) -> Iterator[list[DueConnection]]:
    """Claim one batch after the other, until a batch is not full."""
    while batch := claim(now=(moment := clock()), limit=size):
        if dues := _not_in_use(batch, locks, moment):
            yield dues
        if len(batch) < size:
            return


def _not_in_use(batch: list[DueConnection], locks: refresh_locks.GrantLocks, now: datetime) -> list[DueConnection]:
    """Return the connections whose refresh token is not in use for a caller. The others are made due again soon."""
    held = locks.take([due.pk for due in batch])
    if in_use := [due.pk for due in batch if due.pk not in held]:
        Connection.objects.filter(pk__in=in_use, refresh_after=now + LEASE).update(refresh_after=now + IN_USE_FOR)
    return [due for due in batch if due.pk in held]


def retry_rejected_apps(*, now: datetime) -> Summary:
    """Retry rejected app registrations, and restore those that Microsoft accepts. Returns the counts.

    Each is tried once a minute with one connection. If only a tenant rejects it, a connection in that tenant is used.
    """
    canaries: list[DueConnection] = []
    for app in AppRegistration.objects.filter(rejected_at__isnull=False, canary_after__lte=now):
        # Prefer tenants that don't reject the app themselves, because their refusal would prove nothing about the app.
        canaries += _claim_canary(
            app, app.connections.order_by(F("app_consent__rejected_at").asc(nulls_first=True)), now
        )
    rejected = AppConsent.objects.filter(
        rejected_at__isnull=False, canary_after__lte=now, app_registration__rejected_at=None
    )
    for consent in rejected.select_related("app_registration", "tenant").order_by("canary_after")[:MOST_CANARIES]:
        connections = app_consents.connections_in(consent.app_registration, consent.tenant)
        canaries += _claim_canary(consent, connections, now)
    with refresh_locks.GrantLocks() as locks:
        return apply_results.apply(batch_client.request_tokens(_not_in_use(canaries, locks, now)), now=now)


def _claim_canary(
    rejected: AppRegistration | AppConsent, connections: QuerySet[Connection], now: datetime
) -> list[DueConnection]:
    """Claim one of the connections, unless another worker is already trying."""
    unclaimed = type(rejected)._default_manager.filter(pk=rejected.pk, canary_after=rejected.canary_after)
    if not unclaimed.update(canary_after=now + CANARY_EVERY):
        return []
    ordered = connections.filter(status__in=Connection.KEPT_ALIVE).order_by(
        *connections.query.order_by, "refresh_after", "pk"
    )
    canary = ordered.first()
    return claim_one(canary.pk, now=now) if canary is not None else []


def check_now(connection: Connection, *, actor: User, now: datetime) -> Connection:
    """Refresh one connection now, and return it.

    Raises NotAllowed, NothingToCheck, UnreadableSecret, MicrosoftUnavailable, or TokenUnavailable if another refresh
    does not end in time.
    """
    roles.require(permissions.can_check(actor, connection))
    if connection.status in (Connection.Status.PENDING, Connection.Status.DISABLED):
        raise NothingToCheck
    if connection.status_code == ownership_transfer.CODE:
        raise NothingToCheck(connection.status_cause, action=connection.status_action)
    with refresh_locks.grant_lock(connection.pk, patience=CHECK_PATIENCE) as is_ours:
        if not is_ours:
            raise TokenUnavailable("The portal is refreshing this connection already.")
        results = batch_client.request_tokens(claim_one(connection.pk, now=now))
        apply_results.apply(results, now=now)
    audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=actor)
    connection.refresh_from_db()
    for result in results:
        for answer in (*(answer for _, answer in result.answers), result.held_back_by):
            if isinstance(answer, UnreadableSecret):
                raise answer
            if isinstance(answer, Verdict) and answer.kind in (Kind.TRANSIENT, Kind.THROTTLED):
                raise MicrosoftUnavailable(answer)
    return connection
