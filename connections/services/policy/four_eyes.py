"""Changes that one person may not make alone, and their approval by a second person.

A service calls ``require`` in the transaction of the change. Without an approval, this raises SecondPersonNeeded, and
the page or route then calls ``ask``. After a second person has approved, the requester makes the same change again,
which uses up the approval. An approval is valid once, for exactly the requested values, within LIFETIME.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from django.db import transaction

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import Conflict, InvalidInput, PortalError
from connections.models import ChangeRequest, Connection, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts
from connections.services.policy import request_workflow

Kind: TypeAlias = ChangeRequest.Kind
State: TypeAlias = ChangeRequest.State
LIFETIME = timedelta(days=3)  # how long an approval can be used
MOST_WAITING = 50  # requests per person
_DETAILS = 50  # details listed in a request


@dataclass(frozen=True, slots=True)
class Change:
    """A proposed change. ``proposal`` contains plain JSON values that identify it exactly."""

    kind: Kind
    proposal: dict[str, Any]
    title: str
    path: str  # the page on which the change is made
    details: tuple[str, ...] = ()
    connection: Connection | None = None


class SecondPersonNeeded(PortalError):
    """Nobody may make this change alone. ``change`` is the change to request approval for."""

    code = "second_person_needed"
    status = 409
    who = "it_admin"
    cause = "You can't make this change alone."
    action = "Ask for approval, then make the change again."

    def __init__(self, change: Change) -> None:
        self.change = change
        deciders = "A second IT admin" if change.connection is None else "The owner or a second IT admin"
        super().__init__(f"{change.title} needs approval. {deciders} must approve it.")


def require(change: Change | None, *, actor: User, now: datetime) -> None:
    """Use up the actor's approval of this change. Does nothing for None.

    Raises SecondPersonNeeded without an approval.
    """
    if change is None:
        return
    approved = ChangeRequest.objects.filter(
        requested_by=actor, kind=change.kind, state=State.APPROVED, decided_at__gt=now - LIFETIME
    )
    for request in approved.order_by("pk"):
        if request.proposal != change.proposal:
            continue
        facts = {"kind": request.kind, "approved_by": request.decided_by_name}
        if _move(request, AuditAction.CHANGE_REQUEST_USED, State.APPROVED, actor, facts, state=State.USED, used_at=now):
            return
    raise SecondPersonNeeded(change)


def ask(change: Change, *, actor: User, now: datetime) -> ChangeRequest:
    """Request approval from the people who can decide. If there is a request already, returns that.

    Raises Conflict if too many of the actor's requests are waiting.
    """
    with transaction.atomic():
        # Lock the row, so that two clicks create one request.
        User.objects.select_for_update(no_key=True).filter(pk=actor.pk).first()
        own = ChangeRequest.objects.filter(requested_by=actor)
        usable = own.filter(state=State.APPROVED, decided_at__gt=now - LIFETIME) | own.filter(state=State.WAITING)
        for request in usable.filter(kind=change.kind).order_by("pk"):
            if request.proposal == change.proposal:
                return request
        if own.filter(state=State.WAITING).count() >= MOST_WAITING:
            raise Conflict("Too many of your requests are waiting.", action="Withdraw those that you no longer need.")
        request = ChangeRequest.objects.create(
            kind=change.kind,
            connection=change.connection,
            title=change.title[:320],
            details=list(change.details[:_DETAILS]),
            proposal=change.proposal,
            path=change.path,
            requested_by=actor,
            requested_by_name=str(actor)[:320],
            requested_at=now,
        )
        facts = {"kind": change.kind.value, "details": audit.join_values(request.details)}
        audit.record(AuditAction.CHANGE_REQUEST_ASKED, request, actor=actor, at=now, changes=facts)
        _tell_deciders(request, now=now)
    return request


def approve(request: ChangeRequest, *, reason: str = "", actor: User, now: datetime) -> None:
    """Approve a request, so that its requester can make the change. Safe to repeat. Raises NotAllowed or Conflict."""
    _decide(request, AuditAction.CHANGE_REQUEST_APPROVED, State.APPROVED, reason, actor, now)


def decline(request: ChangeRequest, *, reason: str, actor: User, now: datetime) -> None:
    """Decline a request. Safe to repeat. Raises NotAllowed, Conflict, or InvalidInput if no reason is given."""
    if not reason.strip():
        raise InvalidInput("Enter a reason. The requester reads it.", field="reason")
    _decide(request, AuditAction.CHANGE_REQUEST_DECLINED, State.DECLINED, reason, actor, now)


def withdraw(request: ChangeRequest, *, actor: User, now: datetime) -> None:
    """Withdraw a request that is not used yet, even an approved one. Safe to repeat. Raises NotAllowed or Conflict."""
    roles.require(permissions.can_withdraw_change(actor, request), action="Only the requester can withdraw it.")
    values = request_workflow.decided(actor, now)
    for state in (State.WAITING, State.APPROVED):
        if _move(request, AuditAction.CHANGE_REQUEST_WITHDRAWN, state, actor, {}, state=State.WITHDRAWN, **values):
            return
    _require_state(request, State.WITHDRAWN)


def _decide(request: ChangeRequest, action: AuditAction, state: State, reason: str, actor: User, now: datetime) -> None:
    roles.require(
        permissions.can_decide_change(actor, request),
        cause="You can't decide this request: you requested it, or you are neither an IT admin nor the owner.",
        action="A second IT admin must decide. If there is none, an operator of the portal can sign in with the "
        "break-glass account (manage.py createsuperuser creates one) and decide.",
    )
    reason = reason.strip()[:2000]
    values = {"decision_reason": reason, **request_workflow.decided(actor, now)}
    with transaction.atomic():
        facts = {"kind": request.kind, "reason": reason}
        if not _move(request, action, State.WAITING, actor, facts, state=state, **values):
            _require_state(request, state)
            return
        _tell_requester(request, now=now)


def _move(
    request: ChangeRequest, action: AuditAction, before: State, actor: User, facts: dict[str, Any], **values: Any
) -> bool:
    return request_workflow.change_state(request, action, coming_from=[before], actor=actor, changes=facts, **values)


def _require_state(request: ChangeRequest, state: State) -> None:
    """Raise Conflict if the request is not in ``state``."""
    request.refresh_from_db()
    if request.state != state:
        raise Conflict(f"This request is already closed: {request.get_state_display().lower()}.")


def _tell_deciders(request: ChangeRequest, *, now: datetime) -> None:
    people: Iterable[User] = querysets.it_admins().select_related("alert_choice")
    owner = request.connection.owner.contact if request.connection is not None else None
    deciders = [*people, *([owner] if owner is not None and request.kind != Kind.POLICY else [])]
    message = alerts.Message(
        subject=f"Approval requested: {request.title}",
        paragraphs=(f"{request.requested_by_name} can't make this change alone.",),
        path=f"/change-requests/{request.pk}/",
        button="Review request",
        why="You received this email because you can approve or decline this request.",
        lines=tuple(request.details),
        lines_label="What it changes",
    )
    allowed = [person for person in deciders if permissions.can_decide_change(person, request)]
    alerts.notify(allowed, message, about=f"change:{request.pk}:asked", now=now)


def _tell_requester(request: ChangeRequest, *, now: datetime) -> None:
    is_approved = request.state == State.APPROVED
    requester = request.requested_by.contact if request.requested_by is not None else None
    next_step = f"Make the change within {LIFETIME.days} days." if is_approved else "Nothing was changed."
    message = alerts.Message(
        subject=f"{request.get_state_display()}: {request.title}",
        paragraphs=tuple(filter(None, (f"By {request.decided_by_name}.", request.decision_reason, next_step))),
        path=f"/change-requests/{request.pk}/",
        button="View request",
        why="You received this email because you requested this change.",
        tone="ok" if is_approved else "warning",
    )
    people = [requester] if requester is not None else []
    alerts.notify(people, message, about=f"change:{request.pk}:{request.state}", now=now)
