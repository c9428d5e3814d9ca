"""Approvals over the API: asked for where the policy wants one, answered by an IT admin who has no part in it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.api import authentication, key_scoping, problems
from connections.api.connections import Type
from connections.api.field_types import RequestSchema, Text, listed
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.models import ApiKey, Approval
from connections.services.policy import approvals

router = Router(tags=["Approvals"])
State = Annotated[Approval.State, listed(Approval.State)]
READING = (Scope.ADMIN_READ, Scope.CONNECTIONS_READ)


class ApprovalOut(Schema):
    """A request that an IT admin lets one connection do what the policy wants approved. It covers just what was asked."""

    id: int
    state: State
    connection_id: int | None = Field(description="Null once the connection is removed.")
    connection_name: str
    app_registration: str
    authentication_type: Type
    capabilities: list[str]
    extra_scopes: list[str]
    permissions: list[str] = Field(description="Everything that was asked, as permissions.")
    capabilities_before: list[str] | None = Field(
        description="What the connection is for until it is approved; null for a new one."
    )
    rules: list[str] = Field(description="Which rules of the policy want an approval, in words.")
    reason: str = Field(description="Why it is needed, in the requester's words.")
    requester: str
    requester_id: int | None
    asked_at: datetime
    decided_by: str
    decided_at: datetime | None
    answer: str = Field(description="What whoever decided says about it.")
    link: str


class ApprovalPage(Page):
    """One page of approvals."""

    items: list[ApprovalOut]


class ApprovalsWanted(PageQuery):
    """Which approvals."""

    state: State | None = Field(None, description="Only those in this state.")
    connection_id: int | None = Field(None, ge=1, le=2**53, description="Only those of this connection.")


class ApprovalIn(RequestSchema):
    """Asking for an approval."""

    reason: Text = Field(
        "",
        max_length=approvals.REASON_LENGTH,
        description="Why it is needed; the IT admin reads it.",
        examples=["The month's end."],
    )


class ApprovalGiven(RequestSchema):
    """Letting it happen."""

    reason: Text = Field(
        "", max_length=approvals.REASON_LENGTH, description="A word to the requester.", examples=["For this quarter."]
    )


class ApprovalDeclined(RequestSchema):
    """Why not."""

    reason: Text = Field(
        min_length=1, max_length=approvals.REASON_LENGTH, examples=["Reading is enough for this; leave sending out."]
    )


@router.get("/approvals", response={200: ApprovalPage} | problems.responses(), summary="List approvals")
def list_approvals(request: HttpRequest, wanted: Query[ApprovalsWanted]) -> Any:
    """All for IT admins and auditors, for others what they asked and what is about their connections; newest first."""
    found = key_scoping.approvals(key_scoping.any_scope(request, *READING))
    exactly = {"state": wanted.state, "connection": wanted.connection_id}
    found = found.filter(**{column: value for column, value in exactly.items() if value is not None})
    return page(found, wanted, describe=describe, order=("-requested_at", "-pk"))


@router.post(
    "/connections/{ref}/approvals",
    response={201: ApprovalOut} | problems.responses(404, *problems.CREATING),
    summary="Ask for an approval",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def ask_approval(request: HttpRequest, response: HttpResponse, ref: str, entry: ApprovalIn) -> Any:
    """Ask for what the connection wishes and the policy wants approved; a request that still waits is replaced."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    made = approvals.request_missing(found, reason=entry.reason, actor=key.owner, now=timezone.now())
    with_location(response, "read_approval", approval_id=made.pk)
    return Status(201, describe(made))


@router.get(
    "/approvals/{int:approval_id}", response={200: ApprovalOut} | problems.responses(404), summary="Read an approval"
)
def read_approval(request: HttpRequest, approval_id: int) -> Any:
    """What exactly is asked, why, and how it stands."""
    return describe(_found(key_scoping.any_scope(request, *READING), approval_id))


@router.post(
    "/approvals/{int:approval_id}/approve",
    response={200: ApprovalOut} | problems.responses(404, *problems.CREATING),
    summary="Approve a request",
)
@idempotent(Scope.ADMIN_WRITE)
def approve_approval(request: HttpRequest, approval_id: int, entry: ApprovalGiven) -> Any:
    """Let it happen: its owner then signs in; an app-only connection is finished with `connect`. Nobody approves what
    they asked or own, and no service account approves anything. Doing it twice is harmless.
    """
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    found = _found(key, approval_id)
    approvals.approve(found, reason=entry.reason, actor=key.owner, now=timezone.now())
    return describe(_found(key, approval_id))


@router.post(
    "/approvals/{int:approval_id}/decline",
    response={200: ApprovalOut} | problems.responses(404, *problems.CREATING),
    summary="Decline a request",
)
@idempotent(Scope.ADMIN_WRITE)
def decline_approval(request: HttpRequest, approval_id: int, entry: ApprovalDeclined) -> Any:
    """Say no, with a reason that the requester reads; a connection that works goes on as before."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    found = _found(key, approval_id)
    approvals.decline(found, reason=entry.reason, actor=key.owner, now=timezone.now())
    return describe(_found(key, approval_id))


@router.post(
    "/approvals/{int:approval_id}/withdraw",
    response={200: ApprovalOut} | problems.responses(404, *problems.CREATING),
    summary="Withdraw a request",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def withdraw_approval(request: HttpRequest, approval_id: int) -> Any:
    """Take back what was asked. Doing it twice is harmless."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = _found(key, approval_id)
    approvals.withdraw(found, actor=key.owner, now=timezone.now())
    return describe(_found(key, approval_id))


def _found(key: ApiKey, approval_id: int) -> Approval:
    return get_object_or_404(key_scoping.approvals(key), pk=approval_id)


def describe(approval: Approval) -> dict[str, Any]:
    """A request as ApprovalOut."""
    columns = ("state", "connection_id", "connection_name", "authentication_type", "capabilities", "permissions")
    shown = {name: getattr(approval, name) for name in (*columns, "reason", "decided_at")}
    return {
        "id": approval.pk,
        **shown,
        "app_registration": approval.app_name,
        "extra_scopes": approval.extra_scopes.split(),
        "capabilities_before": None if approval.before is None else approval.before.get("capabilities", []),
        "rules": approval.reasons,
        "requester": approval.requested_by_name,
        "requester_id": approval.requested_by_id,
        "asked_at": approval.requested_at,
        "decided_by": approval.decided_by_name,
        "answer": approval.decision_reason,
        "link": page_link("approval", approval.pk),
    }
