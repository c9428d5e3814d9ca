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
    """A request to approve permissions for which the policy requires it. It covers exactly what was requested."""

    id: int
    state: State
    connection_id: int | None = Field(description="Null if the connection was removed.")
    connection_name: str
    app_registration: str = Field(validation_alias="app_name")
    authentication_type: Type
    capabilities: list[str]
    extra_scopes: Words
    permissions: list[str] = Field(description="Everything that was asked, as permissions.")
    account: str = Field(
        validation_alias="account_username",
        description="The new Microsoft account of the same name that is to take over; empty if permissions are asked.",
    )
    capabilities_before: list[str] | None = Field(
        description="The connection's capabilities until approval. Null for a new connection."
    )
    rules: list[str] = Field(
        validation_alias="reasons", description="The policy rules that require approval, in words."
    )
    reason: str = Field(description="The requester's justification.")
    requester: str = Field(validation_alias="requested_by_name")
    requester_id: int | None = Field(validation_alias="requested_by_id")
    asked_at: datetime = Field(validation_alias="requested_at")
    decided_by: str = Field(validation_alias="decided_by_name")
    decided_at: datetime | None
    answer: str = Field(validation_alias="decision_reason", description="The decision's reason.")
    link: Annotated[str, link_to("approval")] = Field(validation_alias="pk")

    @staticmethod
    def resolve_capabilities_before(approval: Approval) -> list[str] | None:
        return None if approval.before is None else approval.before.get("capabilities", [])


class ApprovalQuery(PageQuery):
    state: State | None = Field(None, description="Only those in this state.")
    connection_id: int | None = Field(None, ge=1, le=2**53, description="Only those for this connection.")


class ApprovalIn(RequestSchema):
    reason: Text = Field(
        "",
        max_length=approvals.REASON_LENGTH,
        description="The justification for the IT admin.",
        examples=["The month's end."],
    )


class ApprovalGiven(RequestSchema):
    reason: Text = Field(
        "",
        max_length=approvals.REASON_LENGTH,
        description="A message to the requester.",
        examples=["For this quarter."],
    )


class ApprovalDeclined(RequestSchema):
    reason: Text = Field(
        min_length=1, max_length=approvals.REASON_LENGTH, examples=["Reading is enough for this; leave sending out."]
    )


@router.get("/approvals", response=page_of(ApprovalOut), summary="List approvals")
def list_approvals(request: HttpRequest, query: Query[ApprovalQuery]) -> Any:
    """IT admins and auditors get all requests, others those for themselves or their connections. Newest first."""
    key = key_scoping.any_scope(request, *READING)
    return page(key_scoping.approvals(key), query, order=("-requested_at", "-pk"))


@router.post("/connections/{ref}/approvals", response={201: ApprovalOut}, summary="Request approval")
@idempotent(Scope.CONNECTIONS_WRITE)
def ask_approval(request: HttpRequest, response: HttpResponse, ref: str, body: ApprovalIn) -> Any:
    """Request the approval that the policy requires for this connection. This replaces an open request."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    approval = approvals.request_missing(connection, reason=body.reason, actor=key.owner, now=timezone.now())
    with_location(response, "read_approval", approval_id=approval.pk)
    return approval


@router.get("/approvals/{int:approval_id}", response=ApprovalOut, summary="Get an approval")
def read_approval(request: HttpRequest, approval_id: int) -> Any:
    """One request, its justification and its state."""
    return _approval(key_scoping.any_scope(request, *READING), approval_id)


@router.post("/approvals/{int:approval_id}/approve", response=ApprovalOut, summary="Approve a request")
@idempotent(Scope.ADMIN_WRITE)
def approve_approval(request: HttpRequest, approval_id: int, body: ApprovalGiven) -> Any:
    """Approve a request. Safe to repeat.

    The connection's owner can then sign in; an app-only connection is finished with `connect`. Nobody can approve a
    request that they made or that is for their own connection, and service accounts cannot approve any.
    """
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    approvals.approve(_approval(key, approval_id), reason=body.reason, actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


@router.post("/approvals/{int:approval_id}/decline", response=ApprovalOut, summary="Decline a request")
@idempotent(Scope.ADMIN_WRITE)
def decline_approval(request: HttpRequest, approval_id: int, body: ApprovalDeclined) -> Any:
    """Decline a request, with a reason for the requester. A connection that already works keeps its permissions."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    approvals.decline(_approval(key, approval_id), reason=body.reason, actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


@router.post("/approvals/{int:approval_id}/withdraw", response=ApprovalOut, summary="Withdraw a request")
@idempotent(Scope.CONNECTIONS_WRITE)
def withdraw_approval(request: HttpRequest, approval_id: int) -> Any:
    """Withdraw a request. Safe to repeat."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    approvals.withdraw(_approval(key, approval_id), actor=key.owner, now=timezone.now())
    return _approval(key, approval_id)


def _approval(key: ApiKey, approval_id: int) -> Approval:
    return get_object_or_404(key_scoping.approvals(key), pk=approval_id)
