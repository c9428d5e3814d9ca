from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import permissions, querysets
from connections.api import authentication, key_scoping
from connections.api.field_types import RequestSchema, Text, listed
from connections.api.hrefs import link_to
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import ApiKey, ChangeRequest
from connections.services.connections import change_requests
from connections.services.policy import four_eyes

router = Router(tags=["Change requests"])
State = Annotated[ChangeRequest.State, listed(ChangeRequest.State)]
Kind = Annotated[ChangeRequest.Kind, listed(ChangeRequest.Kind)]
READING = (Scope.ADMIN_READ, Scope.CONNECTIONS_READ)
WRITING = (Scope.ADMIN_WRITE, Scope.CONNECTIONS_WRITE)


class ChangeRequestOut(Schema):
    """A change that its requester can't make alone. A call that needs one answers 409 with `second_person_needed`."""

    id: int
    kind: Kind
    state: State
    title: str = Field(description="The change in words.")
    details: list[str] = Field(description="What it gives access to, or changes.")
    connection_id: int | None = Field(description="The connection whose owner can decide; null if there is none.")
    requester: str = Field(validation_alias="requested_by_name")
    requester_id: int | None = Field(validation_alias="requested_by_id")
    requested_at: datetime
    decided_by: str = Field(validation_alias="decided_by_name")
    decided_at: datetime | None
    reason: str = Field(validation_alias="decision_reason", description="The reason for the decision.")
    used_at: datetime | None = Field(description="When the approved change was made.")
    link: Annotated[str, link_to("change_request")] = Field(validation_alias="pk")


class ChangeRequestQuery(PageQuery):
    state: State | None = Field(None, description="Only those in this state.")
    kind: Kind | None = Field(None, description="Only those of this kind.")


class Decision(RequestSchema):
    reason: Text = Field("", max_length=2000, description="The requester reads it.", examples=["Bob is on leave."])


class Refusal(RequestSchema):
    reason: Text = Field(min_length=1, max_length=2000, examples=["Ask Bob to share it himself."])


@router.get("/change-requests", response=page_of(ChangeRequestOut), summary="List change requests")
def list_change_requests(request: HttpRequest, query: Query[ChangeRequestQuery]) -> Any:
    """All for IT admins and auditors; for others their own and those about their connections. Newest first."""
    key = key_scoping.unlimited(request, *READING)
    return page(querysets.visible_change_requests(key.owner), query, order=("-requested_at", "-pk"))


@router.get("/change-requests/{int:change_id}", response=ChangeRequestOut, summary="Read a change request")
def read_change_request(request: HttpRequest, change_id: int) -> Any:
    """What exactly was asked for, and its status."""
    return _visible(key_scoping.unlimited(request, *READING), change_id)


@router.post("/change-requests/{int:change_id}/approve", response=ChangeRequestOut, summary="Approve a change")
@idempotent(Scope.CONNECTIONS_WRITE)
def approve_change_request(request: HttpRequest, change_id: int, body: Decision) -> Any:
    """Allow exactly this change, once. Nobody can approve their own request, and service accounts can't approve any.

    The key also needs `admin:write`, except to approve a share or transfer of the owner's own connection.
    """
    key, change = _to_decide(request, change_id)
    four_eyes.approve(change, reason=body.reason, actor=key.owner, now=timezone.now())
    return _visible(key, change_id)


@router.post("/change-requests/{int:change_id}/decline", response=ChangeRequestOut, summary="Decline a change")
@idempotent(Scope.CONNECTIONS_WRITE)
def decline_change_request(request: HttpRequest, change_id: int, body: Refusal) -> Any:
    """Refuse the change, with a reason that the requester reads. The key needs the same scopes as to approve it."""
    key, change = _to_decide(request, change_id)
    four_eyes.decline(change, reason=body.reason, actor=key.owner, now=timezone.now())
    return _visible(key, change_id)


@router.post(
    "/change-requests/{int:change_id}/withdraw", response=ChangeRequestOut, summary="Withdraw a change request"
)
@idempotent(Scope.CONNECTIONS_WRITE)
def withdraw_change_request(request: HttpRequest, change_id: int) -> Any:
    """Take back a request that was not used yet. Safe to repeat."""
    key = key_scoping.unlimited(request, *WRITING)
    four_eyes.withdraw(_visible(key, change_id), actor=key.owner, now=timezone.now())
    return _visible(key, change_id)


@router.post("/change-requests/{int:change_id}/carry-out", response=ChangeRequestOut, summary="Make an approved change")
@idempotent(Scope.CONNECTIONS_WRITE)
def carry_out_change_request(request: HttpRequest, change_id: int) -> Any:
    """Make the change. Repeating the call that needed the approval does the same; a key is issued on its page.

    The key also needs `admin:write`, except for a share or transfer.
    """
    key = key_scoping.unlimited(request, *WRITING)
    change = _visible(key, change_id)
    if not change.is_about_sharing:
        authentication.require_scope(request, Scope.ADMIN_WRITE)
    change_requests.carry_out(change, actor=key.owner, now=timezone.now())
    return _visible(key, change_id)


def _visible(key: ApiKey, change_id: int) -> ChangeRequest:
    return get_object_or_404(querysets.visible_change_requests(key.owner), pk=change_id)


def _to_decide(request: HttpRequest, change_id: int) -> tuple[ApiKey, ChangeRequest]:
    """Return the calling key and the request that it is about to decide.

    Raises NotAllowed if the key's owner would decide as an IT admin and the key lacks ``admin:write``.
    """
    key = key_scoping.unlimited(request, *WRITING)
    change = _visible(key, change_id)
    if not permissions.decides_as_owner(key.owner, change):
        authentication.require_scope(request, Scope.ADMIN_WRITE)
    return key, change
