"""Prepare, start, stop and delete actions on many connections. bulk_execution.py carries them out."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import Conflict, InvalidInput
from connections.models import BulkAction, BulkItem, Connection, User
from connections.models.audit import AuditAction
from connections.services.connections import bulk_options
from connections.services.connections.bulk_options import Options
from connections.services.connections.bulk_preview import NOT_FOUND, Preview

MOST_CONNECTIONS = 500  # per bulk action
MOST_DRAFTS, MOST_RUNNING = 10, 3  # per person
DRAFTS_KEPT, RESULTS_KEPT = timedelta(days=1), timedelta(days=30)
_TOGETHER = 20  # bulk actions deleted in one transaction

State, ItemState = BulkAction.State, BulkItem.State


def draft(action: str, connections: Iterable[Connection], *, actor: User, now: datetime) -> BulkAction:
    """Prepare an action, and preview it unless it needs options first. Raises NotAllowed or InvalidInput."""
    roles.require(permissions.can_change_many(actor), cause="Auditors have read-only access.")
    chosen = list(connections)
    if not chosen:
        raise InvalidInput("Select at least one connection.", field="connections")
    if len(chosen) > MOST_CONNECTIONS:
        raise InvalidInput(f"Select up to {MOST_CONNECTIONS} connections at a time.", field="connections")
    with transaction.atomic():
        old = BulkAction.objects.filter(requested_by=actor, state=State.DRAFT).values_list("pk", flat=True)
        _delete(list(old[MOST_DRAFTS - 1 :]))
        bulk_action = BulkAction.objects.create(action=action, requested_by=actor, created_at=now)
        BulkItem.objects.bulk_create(
            BulkItem(bulk_action=bulk_action, connection_pk=connection.pk, connection_name=connection.name)
            for connection in chosen
        )
        if action not in bulk_options.WITH_OPTIONS:
            preview(bulk_action, Options(), actor=actor, now=now)
    return bulk_action


def preview(bulk_action: BulkAction, options: Options, *, actor: User, now: datetime) -> None:
    """Set the options, and note for each connection what they would do. Raises NotAllowed, InvalidInput or Conflict."""
    roles.require(bulk_action.requested_by_id == actor.pk, cause="Only the person who prepared this can change it.")
    if len(options.recipients) > bulk_options.MOST_RECIPIENTS:
        raise InvalidInput(f"Share with up to {bulk_options.MOST_RECIPIENTS} at a time.", field="recipients")
    with transaction.atomic():
        drafts = BulkAction.objects.filter(pk=bulk_action.pk, state=State.DRAFT)
        if not drafts.update(options=options.stored(), is_previewed=True):
            raise Conflict("This was already started.")
        items = list(bulk_action.items.all())
        visible = querysets.visible_connections(actor).filter(pk__in=[item.connection_pk for item in items])
        connections = {connection.pk: connection for connection in visible}
        previews = Preview(bulk_action.action, options, connections.values(), actor=actor, now=now)
        for item in items:
            connection = connections.get(item.connection_pk)
            obstacle = previews.obstacle(connection) if connection is not None else NOT_FOUND
            item.state = ItemState.SKIPPED if obstacle else ItemState.WAITING
            item.note = obstacle or (previews.note(connection) if connection is not None else "")
        BulkItem.objects.bulk_update(items, ["state", "note"], batch_size=100)
    bulk_action.refresh_from_db()


def start(bulk_action: BulkAction, *, actor: User, now: datetime) -> None:
    """Start a prepared action, which a worker then carries out. Safe to repeat.

    Raises NotAllowed, InvalidInput or Conflict.
    """
    roles.require(bulk_action.requested_by_id == actor.pk, cause="Only the person who prepared this can start it.")
    roles.require(permissions.can_change_many(actor), cause="Auditors have read-only access.")
    with transaction.atomic():
        # Lock both rows, so that simultaneous starts are counted and the audit event contains what was previewed last.
        User.objects.select_for_update(no_key=True).filter(pk=actor.pk).first()
        locked = BulkAction.objects.select_for_update(no_key=True).filter(pk=bulk_action.pk).first()
        if locked is None:
            raise Conflict("This was discarded.", action="Select the connections again.")
        bulk_action.refresh_from_db()
        if bulk_action.state in (State.RUNNING, State.DONE):
            return
        if not bulk_action.is_draft or not bulk_action.is_previewed:
            raise Conflict("This can't be started.", action="Select the connections again.")
        if BulkAction.objects.filter(requested_by=actor, state=State.RUNNING).count() >= MOST_RUNNING:
            raise InvalidInput(
                f"{MOST_RUNNING} of your bulk actions are in progress.", action="Wait until one of them is done."
            )
        waiting = bulk_action.items.filter(state=ItemState.WAITING).count()
        if not waiting:
            raise InvalidInput("There is nothing to do.", action="Select other connections.")
        address = audit.origin.get().address
        BulkAction.objects.filter(pk=bulk_action.pk).update(state=State.RUNNING, started_at=now, address=address)
        changes = {"action": bulk_action.action, "connections": waiting, "operation": str(bulk_action.operation)}
        changes |= bulk_options.load(bulk_action).recorded()
        audit.record(AuditAction.BULK_ACTION_STARTED, bulk_action, actor=actor, changes=changes)
    bulk_action.refresh_from_db()


def stop(bulk_action: BulkAction, *, actor: User, now: datetime) -> None:
    """Stop a running action after the current connection, without undoing anything. Raises NotAllowed."""
    roles.require(permissions.can_stop(actor, bulk_action), action="Ask the person who started it or an IT admin.")
    with transaction.atomic():
        stop_for_reason(bulk_action, f"{actor} stopped it.", actor=actor, now=now)


def stop_for_reason(bulk_action: BulkAction, reason: str, *, actor: User | None, now: datetime) -> None:
    """Stop the action in the caller's transaction. Does nothing if it is no longer running."""
    running = BulkAction.objects.filter(pk=bulk_action.pk, state=State.RUNNING)
    if running.update(state=State.STOPPED, finished_at=now, claimed_until=None, stop_reason=reason[:300]):
        waiting = bulk_action.items.filter(state=ItemState.WAITING).count()
        changes = {"because": reason, "not_done": waiting, "operation": str(bulk_action.operation)}
        audit.record(AuditAction.BULK_ACTION_STOPPED, bulk_action, actor=actor, changes=changes)


def discard(bulk_action: BulkAction, *, actor: User) -> None:
    """Delete an action that has not been started. Raises NotAllowed."""
    roles.require(bulk_action.requested_by_id == actor.pk, cause="Only the person who prepared this can discard it.")
    with transaction.atomic():
        _delete(list(BulkAction.objects.filter(pk=bulk_action.pk, state=State.DRAFT).values_list("pk", flat=True)))


def prune(*, now: datetime) -> None:
    """Delete drafts after a day, and results after thirty days. The audit trail is not affected."""
    drafts = BulkAction.objects.filter(state=State.DRAFT, created_at__lt=now - DRAFTS_KEPT)
    over = BulkAction.objects.filter(state__in=(State.DONE, State.STOPPED), created_at__lt=now - RESULTS_KEPT)
    for rows in (drafts, over):
        while pks := list(rows.order_by("created_at").values_list("pk", flat=True)[:_TOGETHER]):
            with transaction.atomic():
                _delete(pks)


def _delete(pks: list[int]) -> None:
    BulkItem.objects.filter(bulk_action__in=pks).delete()
    BulkAction.objects.filter(pk__in=pks).delete()
