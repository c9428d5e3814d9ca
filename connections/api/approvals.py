from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.api import authentication, key_scoping
from connections.api.connections import Type
from connections.api.field_types import RequestSchema, Text, Words, listed
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
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
    app_registration: str = Field(validation_alias="app_name")
    authentication_type: Type
    capabilities: list[str]
    extra_scopes: Words
    permissions: list[str] = Field(description="Everything that was asked, as permissions.")
    capabilities_before: list[str] | None = Field(
        description="What the connection is for until it is approved; null for a new one."
    )
    rules: list[str] = Field(
        validation_alias="reasons", description="Which rules of the policy want an approval, in words."
    )
    reason: str = Field(description="Why it is needed, in the requester's words.")
    requester: str = Field(validation_alias="requested_by_name")
    requester_id: int | None = Field(validation_alias="requested_by_id")
    asked_at: datetime = Field(validation_alias="requested_at")
    decided_by: str = Field(validation_alias="decided_by_name")
    decided_at: datetime | None
    answer: str = Field(validation_alias="decision_reason", description="What whoever decided says about it.")
    link: Annotated[str, link_to("approval")] = Field(validation_alias="pk")

    @staticmethod
    def resolve_capabilities_before(approval: Approval) -> list[str] | None:
        return None if approval.before is None else approval.before.get("capabilities", [])


class ApprovalQuery(PageQuery):
    state: State | None = Field(None, description="Only those in this state.")
    connection_id: int | None = Field(None, ge=1, le=2**53, description="Only those of this connection.")


class ApprovalIn(RequestSchema):
    reason: Text = Field(
        "",
        max_length=approvals.REASON_LENGTH,
        description="Why it is needed; the IT admin reads it.",
        examples=["The month's end."],
    )


class ApprovalGiven(RequestSchema):
    reason: Text = Field(
        "", max_length=approvals.REASON_LENGTH, description="A word to the requester.", examples=["For this quarter."]
    )


class ApprovalDeclined(RequestSchema):
    reason: Text = Field(
        min_length=1, max_length=approvals.REASON_LENGTH, examples=["Reading is enough for this; leave sending out."]
    )


@router.get("/approvals", response=page_of(ApprovalOut), summary="List approvals")
def list_approvals(request: HttpRequest, query: Query[ApprovalQuery]) -> Any:
    """All for IT admins and auditors, for others what they asked and what is about their connections; newest first."""
    key = key_scoping.any_scope(request, *READING)
    return page(key_scoping.approvals(key), query, order=("-requested_at", "-pk"))


@router.post("/connections/{ref}/approvals", response={201: ApprovalOut}, summary="Ask for an approval")
@idempotent(Scope.CONNECTIONS_WRITE)
def ask_approval(request: HttpRequest, response: HttpResponse, ref: str, body: ApprovalIn) -> Any:
    """Ask for what the connection wishes and the policy wants approved; a request that still waits is replaced."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    approval = approvals.request_missing(connection, reason=body.reason, actor=key.owner, now=timezone.now())
    with_location(response, "read_approval", approval_id=approval.pk)
    return approval


@router.get("/approvals/{int:approval_id}", response=ApprovalOut, summary="Read an approval")
def read_approval(request: HttpRequest, approval_id: int) -> Any:
    """What exactly is asked, why, and how it stands."""
    return _approval(key_scoping.any_scope(request, *READING), approval_id)


@router.post("/approvals/{int:approval_id}/approve", response=ApprovalOut, summary="Approve a request")
@idempotent(Scope.ADMIN_WRITE)
def approve_approval(request: HttpRequest, approval_id: int, body: ApprovalGiven) -> Any:
    """Let it happen: its owner then signs in; an app-only connection is finished with `connect`. Nobody approves what
    they asked or own, and no service account approves anything. Doing it twice is harmless.
    """
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    approvals.approve(_approval(key, approval_id), reason=body.reason, actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


@router.post("/approvals/{int:approval_id}/decline", response=ApprovalOut, summary="Decline a request")
@idempotent(Scope.ADMIN_WRITE)
def decline_approval(request: HttpRequest, approval_id: int, body: ApprovalDeclined) -> Any:
    """Say no, with a reason that the requester reads; a connection that works goes on as before."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    approvals.decline(_approval(key, approval_id), reason=body.reason, actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


@router.post("/approvals/{int:approval_id}/withdraw", response=ApprovalOut, summary="Withdraw a request")
@idempotent(Scope.CONNECTIONS_WRITE)
def withdraw_approval(request: HttpRequest, approval_id: int) -> Any:
    """Take back what was asked. Doing it twice is harmless."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    approvals.withdraw(_approval(key, approval_id), actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


def _approval(key: ApiKey, approval_id: int) -> Approval:
    return get_object_or_404(key_scoping.approvals(key), pk=approval_id)
