"""Probing: does a connection's own token really open the shared mailboxes attached to it?"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import connection as database
from django.db import transaction
from django.db.models import Q

from connections import audit
from connections.access import permissions, roles
from connections.errors import ConnectionUnusable, InvalidInput, PortalError
from connections.microsoft import capabilities, clouds, exchange_script, mailbox_errors, mailbox_probe
from connections.microsoft.clouds import Cloud
from connections.models import AuditEvent, Connection, MailboxAccess, SharedMailbox, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.tokens import apply_results, fetch

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)
AGAIN_AFTER_UNKNOWN = timedelta(minutes=15)
LEASE = timedelta(minutes=10)  # longer than a batch can take
BATCH = 100
AT_ONCE = 10  # connections tested while somebody waits; the routine does the others
SENT = "sent"  # the code of a mailbox from which a test message got through

State = MailboxAccess.State


def can_be_probed(connection: Connection) -> bool:
    """Whether it has a token to test with, and testing makes sense."""
    return connection.status == Connection.Status.ACTIVE or awaits_proof(connection)


def awaits_proof(connection: Connection) -> bool:
    """Whether it is flagged only because its token carries no role: reaching a mailbox would show that it works."""
    flagged = (connection.status, connection.status_code)
    return flagged == (Connection.Status.CONSENT_NEEDED, apply_results.NO_ROLES.code)


def proves_access(connection: Connection) -> bool:
    """Whether a mailbox it reaches shows that it works, whatever its token says (Microsoft: application-rbac)."""
    return apply_results.reaches_mailbox(connection.pk)


def purpose_of(connection: Connection) -> mailbox_errors.Purpose:
    """What is tested in its mailboxes."""
    return mailbox_errors.purpose_of(_wanted(connection), delegated=connection.is_delegated)


def may_send(connection: Connection) -> bool:
    """Whether it is meant to send from its mailboxes."""
    needed = mailbox_errors.SEND.scope if connection.is_delegated else mailbox_errors.SEND.role
    return not capabilities.missing([needed], _wanted(connection))


def granted_by_exchange(connections: Iterable[Connection]) -> dict[int, tuple[str, ...]]:
    """For each connection that reaches a mailbox without the role it takes: what Exchange must be granting it.

    By primary key; at most one query. Such a grant shows in no token (Microsoft: application-rbac), and asking an
    administrator for the same permission in Entra would open every mailbox.
    """
    without_role = {
        connection.pk: connection
        for connection in connections
        if not connection.is_delegated and capabilities.missing([purpose_of(connection).role], connection.granted)
    }
    if not without_role:
        return {}
    reached = MailboxAccess.objects.filter(connection__in=list(without_role), state=State.REACHABLE)
    return {
        pk: tuple(
            name
            for name in capabilities.missing(_wanted(without_role[pk]), without_role[pk].granted)
            if exchange_script.roles_for([name])
        )
        for pk in reached.values_list("connection_id", flat=True).distinct().order_by()
    }


def _wanted(connection: Connection) -> tuple[str, ...]:
    if connection.is_delegated:
        return capabilities.delegated_scopes(connection.capabilities, connection.extra_scopes)
    return capabilities.application_roles(connection.capabilities, connection.extra_scopes)


# --- Reading --------------------------------------------------------------------------------------


def probe(
    connection: Connection,
    *,
    actor: User | None,
    now: datetime,
    access_token: str | None = None,
    only: Iterable[MailboxAccess] | None = None,
) -> list[MailboxAccess]:
    """Probe the attached mailboxes (or ``only`` some of them) and store what came out.

    The audit trail gets an entry where a state changes, and an incident opens or heals. An app-only connection whose
    token carries no role is well or flagged by what came out. Never call it inside a transaction: it talks to
    Microsoft. Raises NotAllowed; ConnectionUnusable, MicrosoftUnavailable and the like if there is no valid access
    token.
    """
    if actor is not None:
        roles.require(permissions.can_check(actor, connection), action="Ask its owner or an IT admin.")
    attached = MailboxAccess.objects.filter(connection=connection).select_related("mailbox__tenant")
    if only is not None:
        attached = attached.filter(pk__in=[one.pk for one in only])
    rows = list(attached)
    if not rows:
        return []
    cloud = _cloud(connection)
    token = access_token or _token(connection, now=now)
    others = connection.mailbox_accesses.exclude(pk__in=[row.pk for row in rows]).filter(state=State.REACHABLE)
    found = mailbox_probe.probe_mailboxes(
        cloud,
        token,
        [row.mailbox.address for row in rows],
        granted=connection.granted,
        delegated=connection.is_delegated,
        purpose=purpose_of(connection),
        reaches_others=others.exists(),
    )
    for row in rows:
        row.connection = connection
        _store(row, _known_by_sending(row, found[row.mailbox.address]), actor=actor, now=now)
    _settle(connection, now=now)
    return rows


def probe_mailbox(mailbox: SharedMailbox, *, actor: User, now: datetime) -> tuple[list[MailboxAccess], int]:
    """Probe one mailbox through every connection that has it attached and that ``actor`` may check.

    Returns what was tested, and how many are left to the routine, which does them within minutes: those beyond
    AT_ONCE, and those whose connection has no token just now. Raises NotAllowed if ``actor`` may check none of them.
    """
    attached = mailbox.accesses.with_connection().order_by("pk")
    mine = [row for row in attached if permissions.can_check(actor, row.connection)]
    roles.require(
        bool(mine), cause="None of your connections has this mailbox attached.", action="Attach it to one of them."
    )
    rows = [row for row in mine if can_be_probed(row.connection)]
    done: list[MailboxAccess] = []
    for row in rows[:AT_ONCE]:
        try:
            done += probe(row.connection, actor=actor, now=now, only=[row])
        except PortalError as error:
            logger.info("mailbox access %s could not be probed: %s", row.pk, error.code)
    left = {row.pk for row in rows} - {row.pk for row in done}
    MailboxAccess.objects.filter(pk__in=left).update(probe_after=now)
    return done, len(left)


def _cloud(connection: Connection) -> Cloud:
    environment = connection.app_registration.tenant.environment
    if environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{environment}” is not configured in this portal.",
            action="An operator must configure it again.",
        )
    return clouds.cloud(environment)


def _token(connection: Connection, *, now: datetime) -> str:
    """A valid access token; ``connection`` then knows what is granted with it, as it may have been renewed."""
    if awaits_proof(connection):
        current = Connection.objects.get(pk=connection.pk)
        if current.access_token is None or not current.expires_at or current.expires_at <= now:
            raise ConnectionUnusable(current.status_cause, action=current.status_action)
        token = str(current.access_token)
    else:
        token = fetch.valid_access_token(connection, now=now)
    connection.refresh_from_db(fields=["granted_scopes", "token_version"])
    return token


def _settle(connection: Connection, *, now: datetime) -> None:
    """Where the token says nothing, the mailboxes decide whether the connection is well."""
    if connection.is_delegated or connection.granted or not connection.scopes:
        return
    apply_results.settle_without_roles(connection.pk, now=now, version=connection.token_version)
    connection.refresh_from_db()


# --- Sending --------------------------------------------------------------------------------------


def send_test_message(attached: MailboxAccess, *, actor: User, now: datetime) -> mailbox_errors.Probe:
    """Send a test message from the mailbox to itself and keep what that tells; nothing else shows the right.

    A mailbox that can be read stays reachable, and says that sending is denied until a test message gets through.
    Raises NotAllowed, InvalidInput if the connection is not meant to send, or ConnectionUnusable.
    """
    connection = attached.connection
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    if not may_send(connection):
        raise InvalidInput(
            f"{connection} is not meant to send from shared mailboxes.",
            action="Add that capability to the connection first.",
        )
    cloud, token = _cloud(connection), _token(connection, now=now)
    outcome = mailbox_probe.send_test(
        cloud, token, attached.mailbox.address, granted=connection.granted, delegated=connection.is_delegated
    )
    sent = outcome.state is mailbox_errors.ReachState.REACHABLE
    with transaction.atomic():
        audit.record(
            AuditAction.CONNECTION_SENDING_TESTED,
            connection,
            actor=actor,
            outcome=AuditEvent.Outcome.DONE if sent else AuditEvent.Outcome.FAILED,
            changes={"mailbox": attached.mailbox.address, "code": outcome.code or SENT},
        )
        if outcome.state is not mailbox_errors.ReachState.UNKNOWN:
            _keep_sending(attached, outcome, actor=actor, now=now)
    _settle(connection, now=now)
    return outcome


def _keep_sending(row: MailboxAccess, outcome: mailbox_errors.Probe, *, actor: User, now: datetime) -> None:
    if purpose_of(row.connection) is mailbox_errors.SEND:
        _store(row, replace(outcome, code=outcome.code or SENT), actor=actor, now=now)
    elif row.state == State.REACHABLE:
        told = {"code": outcome.code or SENT, "cause": outcome.cause, "action": outcome.action}
        denied = outcome.state is mailbox_errors.ReachState.UNREACHABLE
        row.lack = mailbox_errors.MissingAccess.SEND_AS.value if denied else ""
        MailboxAccess.objects.filter(pk=row.pk, state=State.REACHABLE).update(**told, lack=row.lack)
        for name, value in told.items():
            setattr(row, name, value)


def _known_by_sending(row: MailboxAccess, outcome: mailbox_errors.Probe) -> mailbox_errors.Probe:
    """Reading says nothing about sending, so what a test message has told stays."""
    if row.lack == mailbox_errors.MissingAccess.SEND_AS and outcome.state is not mailbox_errors.ReachState.UNREACHABLE:
        state = (
            outcome.state
            if outcome.state is mailbox_errors.ReachState.REACHABLE
            else mailbox_errors.ReachState(row.state)
        )
        return mailbox_errors.Probe(
            state,
            row.code,
            row.cause,
            row.action,
            mailbox_errors.who_can_fix(row.lack),
            mailbox_errors.MissingAccess.SEND_AS,
        )
    if row.code == SENT and (
        outcome.state is mailbox_errors.ReachState.REACHABLE or outcome.code == mailbox_errors.NOT_TESTED
    ):
        return replace(mailbox_errors.REACHABLE, code=SENT)
    return outcome


# --- Storing --------------------------------------------------------------------------------------


def _store(row: MailboxAccess, outcome: mailbox_errors.Probe, *, actor: User | None, now: datetime) -> None:
    before = row.state, row.lack
    values = {
        "state": outcome.state.value,
        "code": outcome.code[:60],
        "lack": outcome.lack.value if outcome.lack else "",
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
        for name, value in values.items():
            setattr(row, name, value)
        if before != (row.state, row.lack):
            changes = {"mailbox": row.mailbox.address, "state": [before[0], row.state], "code": row.code}
            audit.record(AuditAction.CONNECTION_MAILBOX_PROBED, row.connection, actor=actor, changes=changes)
        _tell_incidents(row, before, shown=actor is not None, now=now)


def _tell_incidents(row: MailboxAccess, before: tuple[str, str], *, shown: bool, now: datetime) -> None:
    """What somebody has just tried for the first time and sees fail is no incident yet; the routine makes it one."""
    if row.state == State.REACHABLE and before[0] != State.REACHABLE:
        incidents.mailbox_reachable(row, now=now)
    elif row.state == State.UNREACHABLE:
        news = before != (row.state, row.lack) and before[0] != State.UNPROBED
        if news or not shown:
            incidents.report_mailbox(row, now=now)


def _next(outcome: mailbox_errors.Probe, now: datetime) -> datetime:
    """Daily, spread so that probes of mailboxes attached together drift apart; sooner if there was no answer."""
    unanswered = outcome.state is mailbox_errors.ReachState.UNKNOWN and outcome.code != mailbox_errors.NOT_TESTED
    return now + (AGAIN_AFTER_UNKNOWN if unanswered else EVERY) * random.uniform(0.85, 1.1)


# --- The routine ----------------------------------------------------------------------------------


def probe_due(*, now: datetime, limit: int = BATCH) -> int:
    """Probe up to ``limit`` mailboxes that are due, of connections that can be probed; returns how many were.

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
    probed = Q(connection__status=Connection.Status.ACTIVE) | Q(
        connection__status=Connection.Status.CONSENT_NEEDED, connection__status_code=apply_results.NO_ROLES.code
    )
    due = MailboxAccess.objects.filter(
        probed, probe_after__lte=now, connection__app_registration__rejected_at=None
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
