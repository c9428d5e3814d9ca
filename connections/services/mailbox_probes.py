"""Probing: does a connection's own token really open the shared mailboxes attached to it?"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import connection as database
from django.db import transaction

from connections import access, audit
from connections.errors import InvalidInput, PortalError
from connections.microsoft import clouds, graph
from connections.models import Connection, MailboxAccess, User
from connections.services import tokens

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)
AGAIN_AFTER_UNKNOWN = timedelta(minutes=15)
LEASE = timedelta(minutes=10)  # longer than a batch can take
BATCH = 100


def probe(
    connection: Connection,
    *,
    actor: User | None,
    now: datetime,
    access_token: str | None = None,
    only: Iterable[MailboxAccess] | None = None,
) -> list[MailboxAccess]:
    """Probe the attached mailboxes (or ``only`` some of them) and store what came out.

    The audit trail gets an entry where a state changes. Never call it inside a transaction: it talks to Microsoft.
    Raises NotAllowed; ConnectionUnusable, MicrosoftUnavailable and the like if there is no valid access token.
    """
    if actor is not None:
        access.require(access.can_check(actor, connection), action="Ask its owner or an IT admin.")
    attached = MailboxAccess.objects.filter(connection=connection).select_related("mailbox")
    if only is not None:
        attached = attached.filter(pk__in=[one.pk for one in only])
    rows = list(attached)
    if not rows:
        return []
    environment = connection.app_registration.tenant.environment
    if environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{environment}” is not configured in this portal.",
            action="An operator must configure it again.",
        )
    token = access_token or tokens.valid_access_token(connection, now=now)
    # The token may have been renewed just now, and with it what is granted.
    connection.refresh_from_db(fields=["granted_scopes"])
    outcomes = graph.probe_mailboxes(
        clouds.cloud(environment),
        token,
        [row.mailbox.address for row in rows],
        granted=connection.granted,
        delegated=connection.is_delegated,
    )
    for row in rows:
        _store(connection, row, outcomes[row.mailbox.address], actor=actor, now=now)
    return rows


def _store(
    connection: Connection, row: MailboxAccess, outcome: graph.Probe, *, actor: User | None, now: datetime
) -> None:
    before = row.state
    values = {
        "state": outcome.state.value,
        "code": outcome.code[:60],
        "cause": outcome.cause,
        "action": outcome.action,
        "probed_at": now,
        "probe_after": _next(outcome, now),
    }
    with transaction.atomic():
        # Detached, or given another address, while Microsoft was being asked: the answer is void.
        same = MailboxAccess.objects.filter(pk=row.pk, mailbox__address=row.mailbox.address)
        if not same.update(**values):
            return
        if before != outcome.state.value:
            changes = {"mailbox": row.mailbox.address, "state": [before, outcome.state.value], "code": outcome.code}
            audit.record("connection.mailbox_probed", connection, actor=actor, changes=changes)
    for name, value in values.items():
        setattr(row, name, value)


def _next(outcome: graph.Probe, now: datetime) -> datetime:
    """Daily, spread so that probes of mailboxes attached together drift apart; sooner if there was no answer."""
    rest = AGAIN_AFTER_UNKNOWN if outcome.state is graph.Reach.UNKNOWN else EVERY
    return now + rest * random.uniform(0.85, 1.1)


# --- The routine ----------------------------------------------------------------------------------


def probe_due(*, now: datetime, limit: int = BATCH) -> int:
    """Probe up to ``limit`` mailboxes of active connections that are due; returns how many were probed.

    Any number of workers may run it at once: each claims its own rows by moving ``probe_after`` forward. A row whose
    connection has no valid token just now is due again when that lease runs out.
    """
    done = 0
    for connection, rows in _claim(now, limit).items():
        try:
            done += len(probe(connection, actor=None, now=now, only=rows))
        except PortalError as error:
            logger.info("mailboxes of connection %s could not be probed: %s", connection.pk, error.code)
    return done


def _claim(now: datetime, limit: int) -> dict[Connection, list[MailboxAccess]]:
    due = MailboxAccess.objects.filter(
        probe_after__lte=now,
        connection__status=Connection.Status.ACTIVE,
        connection__app_registration__rejected_at=None,
    ).order_by("probe_after", "pk")
    if database.features.has_select_for_update_skip_locked:
        due = due.select_for_update(skip_locked=True, of=("self",))
    with transaction.atomic():
        claimed = list(due.values_list("pk", flat=True)[:limit])
        MailboxAccess.objects.filter(pk__in=claimed).update(probe_after=now + LEASE)
    rows = MailboxAccess.objects.filter(pk__in=claimed).with_connection()
    found: dict[Connection, list[MailboxAccess]] = defaultdict(list)
    for row in rows:
        found[row.connection].append(row)
    return found
