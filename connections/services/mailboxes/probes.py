"""Probe whether a connection can open its shared mailboxes with its token."""

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
from connections.microsoft import capabilities, exchange_script, mailbox_errors, mailbox_probe, resources
from connections.microsoft.mailbox_errors import MissingAccess, ReachState
from connections.models import AuditEvent, Connection, MailboxAccess, SharedMailbox, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.incidents import incidents
from connections.services.policy import permission_drift
from connections.services.registry import tenants
from connections.services.tokens import apply_results, fetch
from connections.services.tokens.single_flight import TokenRequirement

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)
AGAIN_AFTER_UNKNOWN = timedelta(minutes=15)
LEASE = timedelta(minutes=10)  # longer than a batch can take
BATCH = 100
AT_ONCE = 10  # connections probed while a person waits; the scheduled probe handles the others
SENT = "sent"  # code of a mailbox from which a test message was sent

State = MailboxAccess.State


def can_be_probed(connection: Connection) -> bool:
    """Whether the connection can have a Graph token now. Without one, nothing can be probed."""
    if connection.resource != resources.GRAPH:
        return False
    return connection.status == Connection.Status.ACTIVE or is_flagged_without_roles(connection)


def is_flagged_without_roles(connection: Connection) -> bool:
    """Whether the connection is flagged only because its token has no roles. Reaching a mailbox would resolve that."""
    flagged = (connection.status, connection.status_code)
    return flagged == (Connection.Status.CONSENT_NEEDED, apply_results.NO_ROLES.code)


def purpose_of(connection: Connection) -> mailbox_errors.Purpose:
    """Return the purpose of the connection's mailboxes, which a probe tests."""
    required = permission_drift.required_permissions(connection)
    return mailbox_errors.purpose_of(required, delegated=connection.is_delegated)


def may_send(connection: Connection) -> bool:
    """Whether the connection's permissions include sending from its mailboxes."""
    needed = mailbox_errors.SEND.scope if connection.is_delegated else mailbox_errors.SEND.role
    return not capabilities.missing([needed], permission_drift.required_permissions(connection))


def granted_by_exchange(connections: Iterable[Connection]) -> dict[int, tuple[str, ...]]:
    """Return the permissions that only Exchange granted, by connection ID. Takes at most one query.

    These are not in tokens (Microsoft: application-rbac).
    """
    without_role = {
        connection.pk: connection
        for connection in connections
        if not connection.is_delegated and capabilities.missing([purpose_of(connection).role], connection.granted)
    }
    if not without_role:
        return {}
    reached = MailboxAccess.objects.filter(connection__in=list(without_role), state=State.REACHABLE)
    granted: dict[int, tuple[str, ...]] = {}
    for pk in reached.values_list("connection_id", flat=True).distinct().order_by():
        required = permission_drift.required_permissions(without_role[pk])
        missing = capabilities.missing(required, without_role[pk].granted)
        granted[pk] = tuple(name for name in missing if exchange_script.roles_for([name]))
    return granted


def probe(
    connection: Connection,
    *,
    actor: User | None,
    now: datetime,
    access_token: str | None = None,
    only: Iterable[MailboxAccess] | None = None,
) -> list[MailboxAccess]:
    """Probe the attached mailboxes (or ``only`` some of them) and store the results.

    A changed state is audited, and opens or resolves an incident. The results also restore or flag an app-only
    connection whose token contains no roles. Never call this in a transaction, because it sends requests.

    Raises NotAllowed. Without a valid access token, raises ConnectionUnusable, MicrosoftUnavailable or another
    PortalError.
    """
    if actor is not None:
        roles.require(permissions.can_check(actor, connection), action="Ask its owner or an IT admin.")
    query = MailboxAccess.objects.filter(connection=connection).select_related("mailbox__tenant")
    if only is not None:
        query = query.filter(pk__in=[access.pk for access in only])
    rows = list(query)
    if connection.resource != resources.GRAPH:
        query.update(probe_after=None)
        return []
    if not rows:
        return []
    cloud = tenants.cloud_of(connection.tenant)
    token = access_token or _token(connection, now=now)
    others = connection.mailbox_accesses.exclude(pk__in=[row.pk for row in rows]).filter(state=State.REACHABLE)
    outcomes = mailbox_probe.probe_mailboxes(
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
        _store(row, _keep_send_result(row, outcomes[row.mailbox.address]), actor=actor, now=now)
    _settle(connection, now=now)
    return rows


def probe_mailbox(mailbox: SharedMailbox, *, actor: User, now: datetime) -> tuple[list[MailboxAccess], int]:
    """Probe the mailbox through all connections that ``actor`` may check.

    Returns the probed rows, and how many are left for the scheduled probe. Raises NotAllowed if there is no such
    connection.
    """
    attached = mailbox.accesses.with_connection().order_by("pk")
    allowed = [row for row in attached if permissions.can_check(actor, row.connection)]
    roles.require(
        bool(allowed),
        cause="This mailbox isn't attached to any of your connections.",
        action="Attach it to a connection first.",
    )
    rows = [row for row in allowed if can_be_probed(row.connection)]
    probed: list[MailboxAccess] = []
    for row in rows[:AT_ONCE]:
        try:
            probed += probe(row.connection, actor=actor, now=now, only=[row])
        except PortalError as error:
            logger.info("mailbox access %s could not be probed: %s", row.pk, error.code)
    remaining = {row.pk for row in rows} - {row.pk for row in probed}
    MailboxAccess.objects.filter(pk__in=remaining).update(probe_after=now)
    return probed, len(remaining)


def _token(connection: Connection, *, now: datetime) -> str:
    """Return a valid access token.

    Also reloads the connection's granted permissions, which may have changed with a new token.
    """
    if is_flagged_without_roles(connection):
        current = Connection.objects.get(pk=connection.pk)
        if current.access_token is None or not current.expires_at or current.expires_at <= now:
            raise ConnectionUnusable(current.status_cause, action=current.status_action)
        token = str(current.access_token)
    else:
        token = fetch.get_token(connection, TokenRequirement(60), now=now).access_token
    connection.refresh_from_db(fields=["granted_scopes", "token_version"])
    return token


def _settle(connection: Connection, *, now: datetime) -> None:
    """Restore or flag a connection whose token contains no roles, depending on whether it reaches a mailbox."""
    if connection.is_delegated or connection.granted or not connection.scopes:
        return
    apply_results.settle_without_roles(connection.pk, now=now, version=connection.token_version)
    connection.refresh_from_db()


def send_test_message(attached: MailboxAccess, *, actor: User, now: datetime) -> mailbox_errors.Probe:
    """Send a message from the mailbox to itself, and return the result.

    Raises NotAllowed, ConnectionUnusable, or InvalidInput if the connection isn't set up to send.
    """
    connection = attached.connection
    roles.require(permissions.can_reconnect(actor, connection), action="Ask its owner.")
    if not may_send(connection):
        raise InvalidInput(
            f"{connection} isn't set up to send from shared mailboxes.",
            action="Add that capability to the connection first.",
        )
    cloud, token = tenants.cloud_of(connection.tenant), _token(connection, now=now)
    outcome = mailbox_probe.send_test(
        cloud, token, attached.mailbox.address, granted=connection.granted, delegated=connection.is_delegated
    )
    sent = outcome.state is ReachState.REACHABLE
    with transaction.atomic():
        audit.record(
            AuditAction.CONNECTION_SENDING_TESTED,
            connection,
            actor=actor,
            outcome=AuditEvent.Outcome.DONE if sent else AuditEvent.Outcome.FAILED,
            changes={"mailbox": attached.mailbox.address, "code": outcome.code or SENT},
        )
        if outcome.state is ReachState.UNKNOWN:
            pass  # without a response, the last result stays
        elif purpose_of(connection) is mailbox_errors.SEND:
            _store(attached, replace(outcome, code=outcome.code or SENT), actor=actor, now=now)
        elif attached.state == State.REACHABLE:
            values = {
                "code": outcome.code or SENT,
                "cause": outcome.cause,
                "action": outcome.action,
                "lack": "" if sent else MissingAccess.SEND_AS.value,
            }
            MailboxAccess.objects.filter(pk=attached.pk, state=State.REACHABLE).update(**values)
            set_columns(attached, values)
    _settle(connection, now=now)
    return outcome


def _keep_send_result(row: MailboxAccess, outcome: mailbox_errors.Probe) -> mailbox_errors.Probe:
    """Keep the result of a test message, because reading a mailbox does not test sending from it."""
    if row.lack == MissingAccess.SEND_AS and outcome.state is not ReachState.UNREACHABLE:
        state = outcome.state if outcome.state is ReachState.REACHABLE else ReachState(row.state)
        who = mailbox_errors.who_can_fix(row.lack)
        return mailbox_errors.Probe(state, row.code, row.cause, row.action, who, MissingAccess.SEND_AS)
    if row.code == SENT and (outcome.state is ReachState.REACHABLE or outcome.code == mailbox_errors.NOT_TESTED):
        return replace(mailbox_errors.REACHABLE, code=SENT)
    return outcome


def _store(row: MailboxAccess, outcome: mailbox_errors.Probe, *, actor: User | None, now: datetime) -> None:
    old_state, old_lack = row.state, row.lack
    is_unanswered = outcome.state is ReachState.UNKNOWN and outcome.code != mailbox_errors.NOT_TESTED
    # A random interval spreads the probes of mailboxes that were attached at the same time.
    delay = (AGAIN_AFTER_UNKNOWN if is_unanswered else EVERY) * random.uniform(0.85, 1.1)
    values = {
        "state": outcome.state.value,
        "code": outcome.code[:60],
        "lack": outcome.lack.value if outcome.lack else "",
        "cause": outcome.cause,
        "action": outcome.action,
        "probed_at": now,
        "probe_after": now + delay,
    }
    with transaction.atomic():
        # Ignore the result if the mailbox was detached or got another address in the meantime.
        if not MailboxAccess.objects.filter(pk=row.pk, mailbox__address=row.mailbox.address).update(**values):
            return
        set_columns(row, values)
        has_changed = (old_state, old_lack) != (row.state, row.lack)
        if has_changed:
            changes = {"mailbox": row.mailbox.address, "state": [old_state, row.state], "code": row.code}
            audit.record(AuditAction.CONNECTION_MAILBOX_PROBED, row.connection, actor=actor, changes=changes)
        if row.state == State.REACHABLE and old_state != State.REACHABLE:
            incidents.mailbox_reachable(row, now=now)
        elif row.state == State.UNREACHABLE and (actor is None or (has_changed and old_state != State.UNPROBED)):
            # People who see their first probe fail need no incident. If the scheduled probe fails too, it opens one.
            incidents.report_mailbox(row, now=now)


def probe_due(*, now: datetime, limit: int = BATCH) -> int:
    """Probe up to ``limit`` due mailboxes, claimed by a lease on ``probe_after``. Returns how many were probed."""
    count = 0
    for connection, rows in _claim(now, limit).items():
        try:
            count += len(probe(connection, actor=None, now=now, only=rows))
        except PortalError as error:
            logger.info("mailboxes of connection %s could not be probed: %s", connection.pk, error.code)
    return count


def _claim(now: datetime, limit: int) -> dict[Connection, list[MailboxAccess]]:
    probeable = Q(connection__status=Connection.Status.ACTIVE) | Q(
        connection__status=Connection.Status.CONSENT_NEEDED, connection__status_code=apply_results.NO_ROLES.code
    )
    due_accesses = MailboxAccess.objects.filter(
        probeable,
        probe_after__lte=now,
        connection__app_registration__rejected_at=None,
        connection__app_consent__rejected_at=None,
    ).order_by("probe_after", "pk")
    if database.features.has_select_for_update_skip_locked:
        due_accesses = due_accesses.select_for_update(skip_locked=True, of=("self",))
    with transaction.atomic():
        pks = list(due_accesses.values_list("pk", flat=True)[:limit])
        MailboxAccess.objects.filter(pk__in=pks).update(probe_after=now + LEASE)
    by_connection: dict[Connection, list[MailboxAccess]] = defaultdict(list)
    for row in MailboxAccess.objects.filter(pk__in=pks).with_connection():
        by_connection[row.connection].append(row)
    return by_connection
