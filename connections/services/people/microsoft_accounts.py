"""Microsoft accounts behind connections.

A refusal that concerns an account affects all of the account's connections.
"""

import random
from datetime import datetime, timedelta

from django.db.models import Q, QuerySet

from connections.microsoft import error_tables
from connections.models import Connection
from connections.models.connections import RELATED

AT_ONCE = 25  # if an account has more connections than this, they are checked over a minute
CHECKED_WITHIN = timedelta(minutes=1)


def check_siblings(pk: int, *, now: datetime) -> int:
    """Make the account's other active connections due, after Microsoft refused connection ``pk`` for its account.

    Does nothing if another connection of the account was already flagged for this after ``pk`` last got a token. This
    way, the checks that are caused here do not cause further ones. Call it before the refusal is stored, so that
    nothing is lost if the process is killed in between. Returns how many connections became due.
    """
    connection = Connection.objects.select_related(*RELATED).filter(pk=pk).first()
    if connection is None or not connection.account_oid:
        return 0
    environment = connection.tenant.environment
    siblings = _connections(environment, connection.account_tid, connection.account_oid)
    last_success = connection.refreshed_at or connection.connected_at or connection.created_at
    flagged_since = siblings.filter(status_code__in=error_tables.ACCOUNT_WIDE, status_since__gt=last_success)
    if flagged_since.exists():
        return 0
    return _make_due(siblings.exclude(pk=pk), now=now)


def check_connections(environment: str, tid: str, oid: str, *, now: datetime) -> int:
    """Make the account's active connections due, because its directory reports it as disabled or deleted."""
    return _make_due(_connections(environment, tid, oid), now=now)


def _connections(environment: str, tid: str, oid: str) -> QuerySet[Connection]:
    return Connection.objects.filter(
        account_oid=oid, account_tid=tid, app_registration__environment=environment
    ).order_by("pk")


def _make_due(connections: QuerySet[Connection], *, now: datetime) -> int:
    """Make these connections due, spread over CHECKED_WITHIN if there are many. Returns how many.

    Omits connections that have just got a token, because Microsoft has accepted the account for them.
    """
    waiting = connections.filter(Q(refreshed_at=None) | Q(refreshed_at__lt=now), status=Connection.Status.ACTIVE)
    pks = list(waiting.filter(refresh_after__gt=now).values_list("pk", flat=True))
    longest = CHECKED_WITHIN if len(pks) > AT_ONCE else timedelta()
    for pk in pks:
        # Update one row at a time. One statement for all rows could deadlock with a worker that writes their tokens.
        due_at = now + longest * random.random()
        Connection.objects.filter(pk=pk, status=Connection.Status.ACTIVE, refresh_after__gt=due_at).update(
            refresh_after=due_at
        )
    return len(pks)
