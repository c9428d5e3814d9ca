"""Carry out bulk actions: one connection at a time, each in its own transaction with its own audit events.

A worker holds a lease. If it dies, another worker resumes. Each connection is marked as handled in the transaction that
changes it, so no change is made twice. Only a test with Microsoft, which runs outside transactions, may be repeated,
and it is harmless.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q

from connections import audit
from connections.access import querysets
from connections.errors import InvalidInput, PortalError
from connections.models import BulkAction, BulkItem, Connection, User
from connections.services.connections import bulk_actions, bulk_options, connections, tags
from connections.services.connections.bulk_preview import NOT_FOUND, recipients_of
from connections.services.people import ownership_transfer
from connections.services.sharing import shares
from connections.services.tokens import scheduler

logger = structlog.get_logger(__name__)

LEASE = timedelta(minutes=5)  # longer than handling one connection can take
SLICE = timedelta(seconds=20)  # after this time a run lets the worker do other tasks, and the next run continues
_ACTIONS_PER_RUN = 10
Action, State, ItemState = BulkAction.Action, BulkAction.State, BulkItem.State


def run_due(clock: Callable[[], datetime]) -> int:
    """Continue started actions that no worker is handling, for up to SLICE. Returns the number of connections handled.

    The action that has waited longest comes first, so that a long action doesn't delay all others.
    """
    now = clock()
    free = BulkAction.objects.filter(_free(now), state=State.RUNNING)
    handled, end = 0, now + SLICE
    for bulk_action in free.order_by(F("claimed_until").asc(nulls_first=True), "pk")[:_ACTIONS_PER_RUN]:
        token = audit.origin.set(audit.Origin(str(bulk_action.operation), bulk_action.address))
        try:
            handled += _carry_out(bulk_action, clock, end=end)
        finally:
            audit.origin.reset(token)
        if clock() >= end:
            break
    return handled


def _free(now: datetime) -> Q:
    return Q(claimed_until=None) | Q(claimed_until__lte=now)


def _carry_out(bulk_action: BulkAction, clock: Callable[[], datetime], *, end: datetime) -> int:
    lease, handled = _renew(bulk_action, _free(clock()), clock()), 0
    while lease is not None:
        item = bulk_action.items.filter(state=ItemState.WAITING).first()
        if item is None:
            done = BulkAction.objects.filter(pk=bulk_action.pk, state=State.RUNNING)
            done.update(state=State.DONE, finished_at=clock(), claimed_until=None)
            break
        actor = User.objects.get(pk=bulk_action.requested_by_id)  # with their current roles
        if actor.is_suspended:
            with transaction.atomic():
                reason = f"{actor} can't sign in to this portal any longer."
                bulk_actions.stop_for_reason(bulk_action, reason, actor=None, now=clock())
            break
        _handle(bulk_action, item, actor, clock())
        handled += 1
        now = clock()
        if now >= end:
            _renew(bulk_action, Q(claimed_until=lease), now, lasting=timedelta())
            break
        lease = _renew(bulk_action, Q(claimed_until=lease), now)
    return handled


def _renew(bulk_action: BulkAction, held: Q, now: datetime, *, lasting: timedelta = LEASE) -> datetime | None:
    """Take or extend the lease, and return its end.

    Returns None if the action was stopped, or if another worker has the lease.
    """
    rows = BulkAction.objects.filter(held, pk=bulk_action.pk, state=State.RUNNING)
    return now + lasting if rows.update(claimed_until=now + lasting) else None


def _handle(bulk_action: BulkAction, item: BulkItem, actor: User, now: datetime) -> None:
    """Carry out the action for one connection, or skip the connection and note why."""
    try:
        connection = querysets.visible_connections(actor).filter(pk=item.connection_pk).first()
        if connection is None:
            _settle(item, ItemState.SKIPPED, NOT_FOUND)
        elif bulk_action.action == Action.CHECK:
            checked = scheduler.check_now(connection, actor=actor, now=now)
            _settle(item, ItemState.DONE, checked.status_cause or checked.get_status_display())
        else:
            with transaction.atomic():
                if _settle(item, ItemState.DONE, ""):
                    _change(bulk_action, connection, actor, now)
    except PortalError as error:
        _settle(item, ItemState.SKIPPED, str(error))
    except (OperationalError, InterfaceError):
        raise  # the database is unavailable; another worker resumes when the lease ends
    except Exception:
        # Otherwise this connection would fail again in every run, and those after it would never be handled.
        operation = str(bulk_action.operation)
        logger.exception("a bulk action failed for a connection", connection=item.connection_pk, operation=operation)
        _settle(item, ItemState.SKIPPED, f"Something went wrong. Look for {operation} in the log.")


def _settle(item: BulkItem, state: str, note: str) -> bool:
    """Mark the connection as handled. Returns False if it had been marked before."""
    return bool(BulkItem.objects.filter(pk=item.pk, state=ItemState.WAITING).update(state=state, note=note))


def _change(bulk_action: BulkAction, connection: Connection, actor: User, now: datetime) -> None:
    options = bulk_options.load(bulk_action)
    match bulk_action.action:
        case Action.SHARE:
            recipients, level, until = recipients_of(connection, options), options.level, options.until
            if not recipients:
                raise InvalidInput("None of the recipients is available.")
            shares.share_with_all(connection, recipients, level=level, until=until, actor=actor, now=now)
        case Action.TRANSFER:
            if options.owner is None:
                raise InvalidInput("The new owner's account was removed.")
            keep = options.keep_grant
            ownership_transfer.transfer(connection, options.owner, keep_grant=keep, actor=actor, now=now)
        case Action.ENABLE:
            connections.enable(connection, actor=actor, now=now)
        case Action.DISABLE:
            connections.disable(connection, actor=actor, now=now)
        case Action.TAG:
            tags.add(connection, options.tags, actor=actor)
        case Action.UNTAG:
            tags.remove(connection, options.tags, actor=actor)
        case Action.REMOVE:
            connections.remove(connection, actor=actor, now=now)
