"""Keep connections alive: claim what is due, request tokens, store the answers.

The rows are the queue. A claim moves ``refresh_after`` forward by a lease in one conditional statement, so any number
of workers can share the work, and if one dies, its connections are delayed only by the lease. Microsoft is called
outside any transaction. One canary per app registration goes first, so that a rejected credential or an outage costs
one request instead of one per connection.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection as database
from django.db import transaction
from django.utils.timezone import make_aware

from connections import audit
from connections.access import permissions, roles
from connections.errors import MicrosoftUnavailable, NothingToCheck, UnreadableSecret
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind
from connections.models import AppRegistration, Connection, User
from connections.models.audit import AuditAction
from connections.services.people import ownership_transfer
from connections.services.tokens import apply_results, batch_client
from connections.services.tokens.apply_results import Summary
from connections.services.tokens.batch_client import DueConnection

LEASE = timedelta(minutes=5)  # longer than any batch can take
CANARY_EVERY = timedelta(minutes=1)

_CONNECTION, _APP = Connection._meta.db_table, AppRegistration._meta.db_table
_FIELDS = ["id", *(field.name for field in fields(DueConnection) if field.name != "pk")]
_RETURNING = "RETURNING " + ", ".join(f"{_CONNECTION}.{name}" for name in _FIELDS)
# The statuses are written into the statement so that the planner can use the partial index.
_STATUSES = ", ".join(f"'{status}'" for status in Connection.KEPT_ALIVE)
_CLAIM = f"""
WITH due AS (
    SELECT c.id FROM {_CONNECTION} c JOIN {_APP} a ON a.id = c.app_registration_id
    WHERE c.status IN ({_STATUSES}) AND c.refresh_after <= %s
      AND a.rejected_at IS NULL AND (a.paused_until IS NULL OR a.paused_until <= %s)
    ORDER BY c.refresh_after LIMIT %s {{lock}}
)
UPDATE {_CONNECTION} SET refresh_after = %s FROM due WHERE {_CONNECTION}.id = due.id {_RETURNING}
"""  # noqa: S608 - names of our own tables and columns
_CLAIM_ONE = f"UPDATE {_CONNECTION} SET refresh_after = %s WHERE id = %s {_RETURNING}"  # noqa: S608


def claim(*, now: datetime, limit: int) -> list[DueConnection]:
    """Claim up to ``limit`` due connections; no other worker gets them until the lease expires."""
    moment, until = (database.ops.adapt_datetimefield_value(time) for time in (now, now + LEASE))
    lock = "FOR UPDATE OF c SKIP LOCKED" if database.vendor == "postgresql" else ""
    return _run_claim(_CLAIM.format(lock=lock), (moment, moment, limit, until))


def claim_one(pk: int, *, now: datetime) -> list[DueConnection]:
    """Claim one connection, whether or not it is due (for "check now" and canaries)."""
    return _run_claim(_CLAIM_ONE, (database.ops.adapt_datetimefield_value(now + LEASE), pk))


def _run_claim(sql: str, parameters: tuple[Any, ...]) -> list[DueConnection]:
    with transaction.atomic(), database.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows = cursor.fetchall()
    dues = [DueConnection(*row) for row in rows]
    return [replace(due, suspected_at=_as_datetime(due.suspected_at)) for due in dues]


def _as_datetime(value: datetime | str | None) -> datetime | None:
    """SQLite returns timestamps as text in UTC."""
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else make_aware(moment, UTC)


def sweep(*, now: datetime, limit: int | None = None, clock: Callable[[], datetime] | None = None) -> Summary:
    """Refresh what is due in batches, and retry rejected apps. ``clock`` returns a batch's time (default: ``now``)."""
    total = _retry_rejected_apps(now)
    size = limit or settings.SWEEP_BATCH
    moment = clock() if clock else now
    while batch := claim(now=moment, limit=size):
        results = batch_client.request_tokens(batch)
        total += apply_results.apply(results, now=moment)
        apply_results.postpone(results, now=moment)
        moment = clock() if clock else now
        if len(batch) < size:
            break
    return total


def _retry_rejected_apps(now: datetime) -> Summary:
    """Retry each rejected app once a minute with one connection, and restore the app if Microsoft accepts it."""
    canaries: list[DueConnection] = []
    for app in AppRegistration.objects.filter(rejected_at__isnull=False, canary_after__lte=now):
        unclaimed = AppRegistration.objects.filter(pk=app.pk, canary_after=app.canary_after)
        if not unclaimed.update(canary_after=now + CANARY_EVERY):
            continue  # another worker has it
        canary = app.connections.filter(status__in=Connection.KEPT_ALIVE).order_by("refresh_after", "pk").first()
        if canary is not None:
            canaries += claim_one(canary.pk, now=now)
    return apply_results.apply(batch_client.request_tokens(canaries), now=now) if canaries else Summary()


def check_now(connection: Connection, *, actor: User, now: datetime) -> Connection:
    """Refresh one connection now. Raises NotAllowed, NothingToCheck, UnreadableSecret or MicrosoftUnavailable."""
    roles.require(permissions.can_check(actor, connection))
    if connection.status in (Connection.Status.PENDING, Connection.Status.DISABLED):
        raise NothingToCheck
    if connection.status_code == ownership_transfer.CODE:
        raise NothingToCheck(connection.status_cause, action=connection.status_action)
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
