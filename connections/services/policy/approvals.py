"""Approvals: requested by the person who connects, decided by another IT admin before anything happens at Microsoft.

An approval covers exactly what was requested. It must include every capability or permission that needs approval and,
if the policy requires a second IT admin, every permission of an app-only connection.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import ApprovalNeeded, Conflict, InvalidInput, PolicyForbids
from connections.microsoft import capabilities
from connections.models import Approval, Connection, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.models.connections import status_columns
from connections.services.policy import approval_notifications, evaluate, request_workflow
from connections.services.policy.evaluate import ConnectionRequest, Decision, PolicySet, Reason

State, Who = Approval.State, Connection.Who
REASON_LENGTH = 2000
CODE = ApprovalNeeded.code


def unapproved_reasons(decision: Decision, request: ConnectionRequest, approval: Approval | None) -> tuple[Reason, ...]:
    if approval is None or approval.state != State.APPROVED:
        return decision.approval
    if approval.authentication_type != request.authentication_type:
        return decision.approval
    covers_all = set(request.permissions) <= set(approval.permissions)
    covered = {"capabilities": approval.capabilities, "permissions": approval.permissions}
    return tuple(
        reason
        for reason in decision.approval
        if not (reason.item in covered[reason.rule] if reason.rule in covered else covers_all)
    )


def latest_request(connection: Connection, **state: str) -> Approval | None:
    """Return the connection's latest request about permissions. ``state`` limits it to requests in that state."""
    # Filter by id, because the connection may not be saved yet.
    requests = Approval.objects.filter(connection_id=connection.pk or 0, account_oid="", **state)
    return requests.order_by("-pk").first()


def open_request(connection: Connection) -> Approval | None:
    return latest_request(connection, state=State.WAITING)


def evaluate_approval(
    connection: Connection, granted: Iterable[str] = (), *, policies: PolicySet | None = None
) -> tuple[Decision, tuple[Reason, ...]]:
    """Return the policy's decision about the connection, and the reasons that still need an approval."""
    sources = (policies or evaluate.load_policies()).of(connection.app_registration)
    request = evaluate.request_of(connection)
    decision = evaluate.evaluate_connection(sources, request, granted)
    if not decision.approval:
        return decision, ()
    return decision, unapproved_reasons(decision, request, latest_request(connection, state=State.APPROVED))


def require(connection: Connection) -> None:
    """Raise PolicyForbids or ApprovalNeeded, unless the policy and the approvals so far allow the connection."""
    require_grant(connection, connection.granted)


def may_sign_in(connection: Connection) -> bool:
    try:
        require_sign_in(connection)
    except (PolicyForbids, ApprovalNeeded):
        return False
    return True


def require_sign_in(connection: Connection) -> None:
    """Raise PolicyForbids or ApprovalNeeded if the policy would reject a sign-in's result, or an approval is pending.

    Permissions that were granted earlier are not considered here, because they are checked when Microsoft responds.
    """
    require_grant(connection, ())
    request = open_request(connection)
    if request is not None:
        _, reasons = evaluate_approval(connection, request.permissions)
        if reasons:
            raise _approval_needed(connection, reasons)


def require_grant(connection: Connection, granted: Iterable[str]) -> None:
    """Raise the same errors as ``require``, for the permissions that Microsoft ``granted``."""
    decision, reasons = evaluate_approval(connection, granted)
    evaluate.refuse_forbidden(decision)
    if reasons:
        raise _approval_needed(connection, reasons)


def require_account(connection: Connection, tid: str) -> None:
    """Raise PolicyForbids if the policy does not allow accounts from the directory ``tid``."""
    policies = evaluate.load_policies().of(connection.app_registration)
    if tid:
        registered = evaluate.registered_tids(connection.tenant.environment)
        evaluate.refuse_forbidden(evaluate.evaluate_account(policies, tid, registered))


def _approval_needed(connection: Connection, reasons: Iterable[Reason]) -> ApprovalNeeded:
    cause = " ".join(Decision(tuple(reasons)).sentences)
    last = latest_request(connection)
    if last is not None and last.is_waiting:
        return ApprovalNeeded(cause, action="The request is awaiting an IT admin's approval.")
    if last is not None and last.state == State.DECLINED:
        return ApprovalNeeded(
            f"{cause} {last.decided_by_name} declined it: {last.decision_reason}",
            action="Remove it, or request approval again with a reason.",
        )
    return ApprovalNeeded(cause)


def request_approval(
    connection: Connection,
    reasons: Iterable[Reason],
    *,
    reason: str,
    actor: User,
    now: datetime,
    before: dict[str, Any] | None = None,
    also: Iterable[str] = (),
) -> Approval:
    """Ask the IT admins to approve the connection as it is now. Replaces an open request.

    ``reasons`` are the policy's reasons, ``reason`` is the requester's. ``before`` contains the values to restore if
    the request is declined. ``also`` are permissions that Microsoft granted in addition. Call it in the transaction
    that checks the policy.
    """
    request = evaluate.request_of(connection)
    with transaction.atomic():
        older = withdraw_open(connection, "Replaced by another request.", actor=actor, now=now)
        if older is not None:
            before = older.before or before
        sentences = list(Decision(tuple(reasons)).sentences)
        approval = Approval.objects.create(
            connection=connection,
            connection_name=connection.name,
            app_name=connection.app_registration.name,
            authentication_type=connection.authentication_type,
            capabilities=list(request.capabilities),
            extra_scopes=connection.extra_scopes,
            permissions=sorted({*request.permissions, *also}),
            before=before,
            reasons=sentences,
            reason=reason[:REASON_LENGTH],
            requested_by=actor,
            requested_by_name=str(actor)[:320],
            requested_at=now,
        )
        _show(
            connection, " ".join(sentences), "An IT admin needs to approve it. Sign-in is blocked until then.", now=now
        )
        changes = {
            "connection": connection.name,
            "permissions": audit.join_values(approval.permissions),
            "reason": approval.reason,
        }
        audit.record(AuditAction.APPROVAL_REQUESTED, approval, actor=actor, changes=changes)
        approval_notifications.approval_requested(approval, now=now)
    return approval


def request_missing(connection: Connection, *, reason: str, actor: User, now: datetime) -> Approval:
    """Request the approval that the connection lacks.

    Raises NotAllowed, PolicyForbids, or InvalidInput if it lacks none.
    """
    with transaction.atomic():
        current = Connection.objects.locked().get(pk=connection.pk)
        roles.require(permissions.can_reconnect(actor, current), action="Only its owner can request approval.")
        decision, reasons = evaluate_approval(current, current.granted)
        evaluate.refuse_forbidden(decision)
        if not reasons:
            raise InvalidInput("This connection doesn't need approval.", action="Sign in.")
        return request_approval(current, reasons, reason=reason, actor=actor, now=now, also=_permissions(reasons))


def request_for_grant(connection: Connection, granted: Iterable[str], *, actor: User, now: datetime) -> None:
    """Request approval for permissions that Microsoft granted, unless it was already requested or declined."""
    _, reasons = evaluate_approval(connection, granted)
    missing = _permissions(reasons)
    last = latest_request(connection)
    if last is not None and last.state in (State.WAITING, State.DECLINED) and set(missing) <= set(last.permissions):
        return
    request_approval(connection, reasons, reason="", actor=actor, now=now, also=missing)


def _permissions(reasons: Iterable[Reason]) -> list[str]:
    return [reason.item for reason in reasons if reason.rule == "permissions"]


def close_if_unneeded(connection: Connection, *, actor: User, now: datetime) -> None:
    with transaction.atomic():
        if open_request(connection) is None:
            return
        if withdraw_open(connection, "An approval is no longer needed.", actor=actor, now=now) is not None:
            _show(connection, "", "", now=now)


def approve(approval: Approval, *, reason: str = "", actor: User, now: datetime) -> None:
    """Approve a request. Safe to repeat.

    Raises NotAllowed (also for the requester), PolicyForbids, or Conflict if the request is closed.
    """
    with transaction.atomic():
        connection = _lock_connection(approval)
        _require_decider(approval, actor)
        if not _can_close(approval, State.APPROVED):
            return
        if connection is not None:
            evaluate.refuse_forbidden(evaluate_approval(connection, approval.permissions)[0])
        _close(approval, State.APPROVED, actor=actor, reason=reason, now=now)
        if connection is not None:
            action = "Sign in at Microsoft to finish it." if connection.is_delegated else "Select “Connect now”."
            _show(connection, f"{actor} approved it.", action, now=now, who=Who.OWNER, code="")


def decline(approval: Approval, *, reason: str, actor: User, now: datetime) -> None:
    """Decline a request. A connection that worked before keeps its old permissions. Safe to repeat.

    Raises NotAllowed, InvalidInput if no reason is given, or Conflict if the request was approved or withdrawn.
    """
    with transaction.atomic():
        connection = _lock_connection(approval)
        _require_decider(approval, actor)
        if not reason.strip():
            raise InvalidInput("Enter a reason. The requester will see it.", field="reason")
        if not _can_close(approval, State.DECLINED):
            return
        _close(approval, State.DECLINED, actor=actor, reason=reason, now=now)
        if connection is not None:
            _restore(connection, approval, actor)
            cause = f"{actor} declined it: {reason.strip()}"
            action = "Change its permissions, or request approval again with a reason."
            _show(connection, cause, action, now=now, who=Who.OWNER)


def withdraw(approval: Approval, *, actor: User, now: datetime) -> None:
    """Withdraw a request. Safe to repeat. Raises NotAllowed, or Conflict if it was already decided."""
    with transaction.atomic():
        connection = _lock_connection(approval)
        roles.require(permissions.can_withdraw_approval(actor, approval), action="Only the requester can withdraw it.")
        if not _can_close(approval, State.WITHDRAWN):
            return
        _close(approval, State.WITHDRAWN, actor=actor, reason="", now=now)
        if connection is not None:
            _restore(connection, approval, actor)
            action = "Request approval again, change its permissions, or remove the connection."
            _show(connection, "The request for approval was withdrawn.", action, now=now, who=Who.OWNER)


def connection_removed(connection: Connection, *, actor: User, now: datetime) -> None:
    withdraw_open(connection, "The connection was removed.", actor=actor, now=now)


def _require_decider(approval: Approval, actor: User) -> None:
    roles.require(
        permissions.can_decide_approvals(actor),
        cause="Only IT admins can approve requests.",
        action="Wait for an IT admin.",
    )
    roles.require(
        permissions.can_decide(actor, approval),
        cause="You can't approve your own request, or one that concerns you.",
        action="Ask another IT admin. If there is none, an operator can approve it with the break-glass account "
        "(created with manage.py createsuperuser).",
    )


def _lock_connection(approval: Approval) -> Connection | None:
    """Lock the connection, and set ``approval.connection`` to it.

    The connection is always locked before the approval, to avoid deadlocks.
    """
    approval.connection = Connection.objects.locked().filter(pk=approval.connection_id or 0).first()
    return approval.connection


def withdraw_open(connection: Connection, reason: str, *, actor: User, now: datetime) -> Approval | None:
    """Lock the connection, withdraw its open request and return that request, or None if there is none."""
    Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).first()
    request = Approval.objects.select_for_update().filter(connection=connection, state=State.WAITING).first()
    if request is not None:
        _close(request, State.WITHDRAWN, actor=actor, reason=reason, now=now)
    return request


def _can_close(approval: Approval, state: str) -> bool:
    """Lock and reload the approval. Returns True if it is open, and False if it is already in ``state``.

    Raises Conflict if it was closed with another state.
    """
    current = Approval.objects.select_for_update().get(pk=approval.pk)
    for name in ("state", "before", "permissions", "decided_by_name"):
        setattr(approval, name, getattr(current, name))
    if current.is_waiting:
        return True
    if current.state == state:
        return False
    by = f" by {current.decided_by_name}" if current.decided_by_name else ""
    raise Conflict(f"This request was already {current.get_state_display().lower()}{by}.", action="No action needed.")


def _close(approval: Approval, state: str, *, actor: User, reason: str, now: datetime) -> None:
    reason = reason.strip()[:REASON_LENGTH]
    request_workflow.change_state(
        approval,
        AuditAction(f"approval.{state}"),
        coming_from=[State.WAITING],
        actor=actor,
        changes={"connection": approval.connection_name, "reason": reason},
        state=state,
        decision_reason=reason,
        **request_workflow.decided(actor, now),
    )
    approval_notifications.approval_answered(approval, now=now)


def _restore(connection: Connection, approval: Approval, actor: User) -> None:
    """Restore the permissions that the connection had before the request, unless they have changed since."""
    requested = {"capabilities": approval.capabilities, "extra_scopes": approval.extra_scopes}
    if approval.before is None or audit.changed_fields(connection, requested):
        return
    values = dict(approval.before)
    if not connection.is_delegated:
        values["scopes"] = " ".join(capabilities.application_roles(values["capabilities"], values["extra_scopes"]))
    changes = audit.changed_fields(connection, values)
    if changes:
        Connection.objects.filter(pk=connection.pk).update(**values)
        audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=actor, changes=changes)


def _show(
    connection: Connection, cause: str, action: str, *, now: datetime, who: str = Who.IT_ADMIN, code: str = CODE
) -> None:
    """Show the progress of the approval in the connection's status. Does nothing if it was ever connected."""
    if not cause:
        who = code = ""
    pending = Connection.Status.PENDING
    values = status_columns(pending, code=code, cause=cause, action=action, who=who, since=now)
    if Connection.objects.filter(pk=connection.pk, status=pending).update(**values):
        set_columns(connection, values)
