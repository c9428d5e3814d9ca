"""Approvals: asked for by who connects, answered by another IT admin, before anything happens at Microsoft.

An approval covers what was asked and nothing else: a capability or permission that needs approval must be in it, and
under the rule of the second IT admin every permission of an app-only connection must be.
"""

from __future__ import annotations

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
from connections.models.connections import status_columns
from connections.services.policy import approval_notifications, evaluate
from connections.services.policy.evaluate import ConnectionRequest, Decision, Reason

State = Approval.State
REASON_LENGTH = 2000
CODE = ApprovalNeeded.code


# --- What an approval covers ----------------------------------------------------------------------


def unapproved_reasons(decision: Decision, wish: ConnectionRequest, approval: Approval | None) -> tuple[Reason, ...]:
    """The reasons of a decision that want an approval which ``approval`` does not give."""
    if approval is None or approval.state != State.APPROVED:
        return decision.approval
    if approval.authentication_type != wish.authentication_type:
        return decision.approval
    return tuple(reason for reason in decision.approval if not _covers(approval, reason, wish))


def _covers(approval: Approval, reason: Reason, wish: ConnectionRequest) -> bool:
    if reason.rule == "capabilities":
        return reason.item in approval.capabilities
    if reason.rule == "permissions":
        return reason.item in approval.permissions
    return set(wish.permissions) <= set(approval.permissions)


def latest_request(connection: Connection) -> Approval | None:
    """The latest request of the connection, whatever became of it."""
    return _latest(connection)


def latest_approval(connection: Connection) -> Approval | None:
    """The latest approval the connection has."""
    return _latest(connection, state=State.APPROVED)


def open_request(connection: Connection) -> Approval | None:
    """The request that waits for an answer, if there is one."""
    return _latest(connection, state=State.WAITING)


def _latest(connection: Connection, **which: str) -> Approval | None:
    """By id, as the wish may be asked about before the connection is stored."""
    return Approval.objects.filter(connection_id=connection.pk or 0, **which).order_by("-pk").first()


# --- Asking ---------------------------------------------------------------------------------------


def evaluate_approval(connection: Connection, found: Iterable[str] = ()) -> tuple[Decision, tuple[Reason, ...]]:
    """What the policy says to the connection now, and which of it still wants an approval.

    ``found`` are permissions Microsoft granted. Two queries where something needs approval, else one.
    """
    policies = evaluate.load_policies().of(connection.app_registration)
    wish = evaluate.request_of(connection)
    decision = evaluate.evaluate_connection(policies, wish, found)
    return decision, unapproved_reasons(decision, wish, latest_approval(connection)) if decision.approval else ()


def require(connection: Connection) -> None:
    """Let only a connection pass that the policy allows and, where it says so, an IT admin has approved.

    Raises PolicyForbids or ApprovalNeeded, which says how the last request stands.
    """
    require_grant(connection, connection.granted)


def may_sign_in(connection: Connection) -> bool:
    """Whether require_sign_in would let the connection pass."""
    try:
        require_sign_in(connection)
    except (PolicyForbids, ApprovalNeeded):
        return False
    return True


def require_sign_in(connection: Connection) -> None:
    """Let nobody go to Microsoft for what would be refused: the wish must be allowed, and no request wait for an answer.

    What an older grant had on top is judged anew when Microsoft answers. Raises as require() does.
    """
    require_grant(connection, ())
    asked = open_request(connection)
    if asked is not None:
        _, open_reasons = evaluate_approval(connection, asked.permissions)
        if open_reasons:
            raise _needed(connection, open_reasons)


def require_grant(connection: Connection, found: Iterable[str]) -> None:
    """The same for what Microsoft has just granted it, on top of what it wishes."""
    decision, open_reasons = evaluate_approval(connection, found)
    evaluate.refuse_forbidden(decision)
    if open_reasons:
        raise _needed(connection, open_reasons)


def require_account(connection: Connection, tid: str) -> None:
    """Let only an account pass whose directory the policy allows. Raises PolicyForbids."""
    policies = evaluate.load_policies().of(connection.app_registration)
    registered = evaluate.registered_tids(connection.app_registration.tenant.environment) if tid else ()
    if tid:
        evaluate.refuse_forbidden(evaluate.evaluate_account(policies, tid, registered))


def _needed(connection: Connection, reasons: Iterable[Reason]) -> ApprovalNeeded:
    cause = " ".join(Decision(tuple(reasons)).sentences)
    last = latest_request(connection)
    if last is not None and last.is_waiting:
        return ApprovalNeeded(cause, action="It was asked for and waits for an IT admin.")
    if last is not None and last.state == State.DECLINED:
        return ApprovalNeeded(
            f"{cause} {last.decided_by_name} declined it: {last.decision_reason}",
            action="Leave that out, or ask again with a reason.",
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
    """Note that ``actor`` asks for approval of what the connection wishes now; an older request is withdrawn.

    ``also`` are permissions beyond the wish (Microsoft granted them). A new connection shows that it waits.
    Call it where the wish was checked, inside its transaction.
    """
    wish = evaluate.request_of(connection)
    with transaction.atomic():
        older = _lock_waiting(connection)
        if older is not None:
            _close(older, State.WITHDRAWN, actor=actor, reason="Replaced by another request.", now=now)
            before = older.before or before
        sentences = list(Decision(tuple(reasons)).sentences)
        approval = Approval.objects.create(
            connection=connection,
            connection_name=connection.name,
            app_name=connection.app_registration.name,
            authentication_type=connection.authentication_type,
            capabilities=list(wish.capabilities),
            extra_scopes=connection.extra_scopes,
            permissions=sorted({*wish.permissions, *also}),
            before=before,
            reasons=sentences,
            reason=reason[:REASON_LENGTH],
            requested_by=actor,
            requested_by_name=str(actor)[:320],
            requested_at=now,
        )
        _say(connection, " ".join(sentences), "An IT admin must approve it; nobody can sign in before.", now=now)
        facts = {
            "connection": connection.name,
            "permissions": audit.join_values(approval.permissions),
            "reason": approval.reason,
        }
        audit.record(AuditAction.APPROVAL_REQUESTED, approval, actor=actor, changes=facts)
        approval_notifications.approval_requested(approval, now=now)
    return approval


def request_missing(connection: Connection, *, reason: str, actor: User, now: datetime) -> Approval:
    """Ask for what the connection lacks just now. Asked twice, the second one adds to nothing but the reason.

    Raises NotAllowed, PolicyForbids, or InvalidInput if no approval is needed.
    """
    with transaction.atomic():
        rows = Connection.objects.select_for_update(of=("self",), no_key=True).select_related(
            "app_registration__tenant"
        )
        current = rows.get(pk=connection.pk)
        roles.require(permissions.can_reconnect(actor, current), action="Only its owner can ask.")
        decision, open_reasons = evaluate_approval(current, current.granted)
        evaluate.refuse_forbidden(decision)
        if not open_reasons:
            raise InvalidInput("This connection needs no approval (any more).", action="Sign in for it.")
        beyond = [open_reason.item for open_reason in open_reasons if open_reason.rule == "permissions"]
        return request_approval(current, open_reasons, reason=reason, actor=actor, now=now, also=beyond)


def request_for_grant(connection: Connection, found: Iterable[str], *, actor: User, now: datetime) -> None:
    """Microsoft granted permissions that want an approval: ask for it, unless the same was asked or declined before."""
    _, open_reasons = evaluate_approval(connection, found)
    beyond = [open_reason.item for open_reason in open_reasons if open_reason.rule == "permissions"]
    last = latest_request(connection)
    if last is not None and last.state in (State.WAITING, State.DECLINED) and set(beyond) <= set(last.permissions):
        return
    request_approval(connection, open_reasons, reason="", actor=actor, now=now, also=beyond)


def close_if_unneeded(connection: Connection, *, actor: User, now: datetime) -> None:
    """A wish or the policy has changed so that nothing must be approved any more: end a request that waits."""
    with transaction.atomic():
        older = _lock_waiting(connection)
        if older is not None:
            _close(older, State.WITHDRAWN, actor=actor, reason="An approval is no longer needed.", now=now)
            _say(connection, "", "", now=now)


# --- Answering ------------------------------------------------------------------------------------


def approve(approval: Approval, *, reason: str = "", actor: User, now: datetime) -> None:
    """Let it happen. Approving twice is harmless.

    Raises NotAllowed (the requester can never approve), PolicyForbids if the policy forbids it meanwhile, or
    ChangedMeanwhile if it was declined or withdrawn.
    """
    with transaction.atomic():
        connection = _lock_connection(approval)
        _require_decider(approval, actor)
        if not _still_waiting(approval, State.APPROVED):
            return
        if connection is not None:
            policies = evaluate.load_policies().of(connection.app_registration)
            wish = evaluate.request_of(connection)
            evaluate.refuse_forbidden(evaluate.evaluate_connection(policies, wish, approval.permissions))
        _close(approval, State.APPROVED, actor=actor, reason=reason, now=now)
        if connection is not None:
            finish = "Sign in at Microsoft to finish it." if connection.is_delegated else "Press “Connect now”."
            _say(connection, f"{actor} approved it.", finish, now=now, who=Connection.Who.OWNER, code="")


def decline(approval: Approval, *, reason: str, actor: User, now: datetime) -> None:
    """Refuse it, with a reason the requester reads; a connection that worked before keeps its old wishes.

    Raises NotAllowed, InvalidInput without a reason, ChangedMeanwhile if it was approved or withdrawn.
    """
    with transaction.atomic():
        connection = _lock_connection(approval)
        _require_decider(approval, actor)
        if not reason.strip():
            raise InvalidInput("Say why: the requester reads it.", field="reason")
        if not _still_waiting(approval, State.DECLINED):
            return
        _close(approval, State.DECLINED, actor=actor, reason=reason, now=now)
        if connection is not None:
            _put_back(connection, approval, actor)
            cause = f"{actor} declined it: {reason.strip()}"
            action = "Change what it should do, or ask again with a reason."
            _say(connection, cause, action, now=now, who=Connection.Who.OWNER)


def withdraw(approval: Approval, *, actor: User, now: datetime) -> None:
    """Take the request back. Doing it twice is harmless. Raises NotAllowed, ChangedMeanwhile if it was answered."""
    with transaction.atomic():
        connection = _lock_connection(approval)
        roles.require(permissions.can_withdraw_approval(actor, approval), action="Only who asked can withdraw it.")
        if not _still_waiting(approval, State.WITHDRAWN):
            return
        _close(approval, State.WITHDRAWN, actor=actor, reason="", now=now)
        if connection is not None:
            _put_back(connection, approval, actor)
            action = "Ask for approval again, change what it should do, or remove it."
            _say(connection, "The request for approval was withdrawn.", action, now=now, who=Connection.Who.OWNER)


def connection_removed(connection: Connection, *, actor: User, now: datetime) -> None:
    """The connection is about to go: nobody needs to answer any more."""
    older = _lock_waiting(connection)
    if older is not None:
        _close(older, State.WITHDRAWN, actor=actor, reason="The connection was removed.", now=now)


# --- Parts ----------------------------------------------------------------------------------------


def _require_decider(approval: Approval, actor: User) -> None:
    roles.require(
        permissions.can_decide_approvals(actor), cause="Only IT admins approve.", action="Wait for one of them."
    )
    roles.require(
        permissions.can_decide(actor, approval),
        cause="Whoever asked for an approval, or has a part in it, cannot give it.",
        action="Another IT admin must. If there is none, an operator of the portal can sign in with the break-glass "
        "account (manage.py createsuperuser makes one) and decide.",
    )


def _lock_connection(approval: Approval) -> Connection | None:
    """Always the connection before the approval, so that asking and answering never wait for each other.

    The approval takes it over as it stands now: who may answer depends on its owner.
    """
    connections = Connection.objects.select_for_update(of=("self",), no_key=True)
    related = connections.select_related("app_registration__tenant", "owner")
    approval.connection = related.filter(pk=approval.connection_id or 0).first()
    return approval.connection


def _lock_waiting(connection: Connection) -> Approval | None:
    Connection.objects.select_for_update(no_key=True).filter(pk=connection.pk).first()
    return Approval.objects.select_for_update().filter(connection=connection, state=State.WAITING).first()


def _still_waiting(approval: Approval, wanted: str) -> bool:
    """Whether it can be answered; False if it has this answer already. Raises ChangedMeanwhile for another answer."""
    current = Approval.objects.select_for_update().get(pk=approval.pk)
    for name in ("state", "before", "permissions", "decided_by_name"):
        setattr(approval, name, getattr(current, name))
    if current.is_waiting:
        return True
    if current.state == wanted:
        return False
    who = f" by {current.decided_by_name}" if current.decided_by_name else ""
    raise Conflict(f"It was {current.get_state_display().lower()} meanwhile{who}.", action="Nothing is left to decide.")


def _close(approval: Approval, state: str, *, actor: User, reason: str, now: datetime) -> None:
    values: dict[str, Any] = {
        "state": state,
        "decided_by": actor,
        "decided_by_name": str(actor)[:320],
        "decided_at": now,
        "decision_reason": reason.strip()[:REASON_LENGTH],
    }
    Approval.objects.filter(pk=approval.pk, state=State.WAITING).update(**values)
    for name, value in values.items():
        setattr(approval, name, value)
    facts = {"connection": approval.connection_name, "reason": values["decision_reason"]}
    audit.record(AuditAction(f"approval.{state}"), approval, actor=actor, changes=facts)
    approval_notifications.approval_answered(approval, now=now)


def _put_back(connection: Connection, approval: Approval, actor: User) -> None:
    """What was not approved was never in force: the connection wishes again what it did before it was asked."""
    asked = {"capabilities": approval.capabilities, "extra_scopes": approval.extra_scopes}
    if approval.before is None or any(getattr(connection, name) != value for name, value in asked.items()):
        return
    values = dict(approval.before)
    if not connection.is_delegated:
        values["scopes"] = " ".join(capabilities.application_roles(values["capabilities"], values["extra_scopes"]))
    changes = audit.changed_fields(connection, values)
    if changes:
        Connection.objects.filter(pk=connection.pk).update(**values)
        audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=actor, changes=changes)


def _say(
    connection: Connection,
    cause: str,
    action: str,
    *,
    now: datetime,
    who: str = Connection.Who.IT_ADMIN,
    code: str = CODE,
) -> None:
    """Tell on a connection that was never connected how its approval stands; one that works keeps its own state."""
    values = status_columns(
        Connection.Status.PENDING,
        code=code if cause else "",
        cause=cause,
        action=action,
        who=who if cause else "",
        since=now,
    )
    pending = Connection.objects.filter(pk=connection.pk, status=Connection.Status.PENDING)
    if pending.update(**values):
        for name, value in values.items():
            setattr(connection, name, value)
