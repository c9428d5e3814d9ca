from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import authentication, key_scoping, problems
from connections.api.field_types import Flag, Number, RequestSchema, Text, listed
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import ConsentRequest
from connections.services.consent import requests

router = Router(tags=["Consent"])
State = Annotated[ConsentRequest.State, listed(ConsentRequest.State)]


class ConsentRequestOut(Schema):
    """A person's request for the admin consent that a connection needs."""

    id: int
    state: State
    connection_id: int | None
    connection_name: str
    app_registration_id: int
    directory_id: str
    permissions: list[str] = Field(validation_alias="permission_names")
    reason: str
    requester: str = Field(validation_alias="requester_name")
    asked_at: datetime
    decided_by: str = Field(validation_alias="decided_by_name")
    decided_at: datetime | None
    answer: str = Field(description="Why it was declined, withdrawn or failed, or which permissions are still missing.")
    closed_at: datetime | None
    link: Annotated[str, link_to("consent_request")] = Field(validation_alias="pk")


class ConsentApproved(ConsentRequestOut):
    consent_link: str = Field(
        description="Where an administrator of the directory grants consent. Valid for seven days."
    )


class ConsentRequestQuery(PageQuery):
    state: State | None = Field(None, description="Only those in this state.")


class ConsentRequestIn(RequestSchema):
    """A request for admin consent to a connection's missing permissions."""

    connection_id: Number = Field(examples=[1])
    reason: Text = Field(
        min_length=1, max_length=requests.LONGEST_TEXT, examples=["The invoice robot reads this mailbox."]
    )


class Declined(RequestSchema):
    reason: Text = Field(min_length=1, max_length=requests.LONGEST_TEXT, examples=["Use the team's mailbox instead."])
    seen: State | None = Field(None, description="The state you last saw. If it has changed, the request fails (409).")
    and_same: Flag = Field(False, description="Also decline all requests for the same permissions.")


@router.get("/consent-requests", response=page_of(ConsentRequestOut), summary="List consent requests")
def list_consent_requests(request: HttpRequest, query: Query[ConsentRequestQuery]) -> Any:
    """IT admins and auditors get all requests, others those for themselves or their connections. Newest first."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return page(querysets.visible_consent_requests(key.owner), query, order=("-asked_at", "-pk"))


@router.post(
    "/consent-requests", response={201: ConsentRequestOut} | problems.responses(404), summary="Request admin consent"
)
@idempotent(Scope.CONNECTIONS_WRITE)
def ask_consent(request: HttpRequest, response: HttpResponse, body: ConsentRequestIn) -> Any:
    """Ask the IT admins for consent. An open request for the same permissions is returned instead of a new one."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, str(body.connection_id))
    consent_request = requests.request_consent(connection, reason=body.reason, actor=key.owner, now=timezone.now())
    with_location(response, "read_consent_request", request_id=consent_request.pk)
    return Status(201, consent_request)


@router.get("/consent-requests/{int:request_id}", response=ConsentRequestOut, summary="Get a consent request")
def read_consent_request(request: HttpRequest, request_id: int) -> Any:
    """One request and its state."""
    return key_scoping.key_and_object(request, querysets.visible_consent_requests, request_id, Scope.ADMIN_READ)[1]


@router.post(
    "/consent-requests/{int:request_id}/approve", response=ConsentApproved, summary="Approve a consent request"
)
@idempotent(Scope.ADMIN_WRITE)
def approve_consent_request(request: HttpRequest, request_id: int) -> Any:
    """Approve a request and all others for the same permissions. An administrator must then open the consent link."""
    key, row = key_scoping.key_and_object(request, querysets.visible_consent_requests, request_id, Scope.ADMIN_WRITE)
    current, url = requests.approve(row, actor=key.owner, now=timezone.now())
    current.consent_link = url  # type: ignore[attr-defined]
    return current


@router.post(
    "/consent-requests/{int:request_id}/decline", response=ConsentRequestOut, summary="Decline a consent request"
)
@idempotent(Scope.ADMIN_WRITE)
def decline_consent_request(request: HttpRequest, request_id: int, body: Declined) -> Any:
    """Decline a request, with a reason for the requester."""
    key, row = key_scoping.key_and_object(request, querysets.visible_consent_requests, request_id, Scope.ADMIN_WRITE)
    return requests.decline(
        row,
        reason=body.reason,
        and_same=body.and_same,
        seen=body.seen or row.state,
        actor=key.owner,
        now=timezone.now(),
    )
