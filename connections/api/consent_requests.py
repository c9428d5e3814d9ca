"""Consent requests over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import authentication, key_scoping, problems
from connections.api.field_types import Flag, Number, RequestSchema, Text, listed
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.models import ConsentRequest
from connections.services.consent import requests

router = Router(tags=["Consent"])
State = Annotated[ConsentRequest.State, listed(ConsentRequest.State)]


class ConsentRequestOut(Schema):
    """A person's request that an administrator grants what a connection needs."""

    id: int
    state: State
    connection_id: int | None
    connection_name: str
    app_registration_id: int
    directory_id: str
    permissions: list[str]
    reason: str
    requester: str
    asked_at: datetime
    decided_by: str
    decided_at: datetime | None
    answer: str = Field(description="Why it was declined, withdrawn or failed, or what a token still lacks.")
    closed_at: datetime | None
    link: str


class ConsentApproved(ConsentRequestOut):
    """A request that was approved."""

    consent_link: str = Field(description="Where an administrator of the directory accepts it, within seven days.")


class ConsentRequestPage(Page):
    """One page of consent requests."""

    items: list[ConsentRequestOut]


class ConsentRequestsWanted(PageQuery):
    """Which requests."""

    state: State | None = Field(None, description="Only those in this state.")


class ConsentRequestIn(RequestSchema):
    """What is asked for: consent for what one connection lacks."""

    connection_id: Number = Field(examples=[1])
    reason: Text = Field(
        min_length=1, max_length=requests.LONGEST_TEXT, examples=["The invoice robot reads this mailbox."]
    )


class Declined(RequestSchema):
    """Why not."""

    reason: Text = Field(min_length=1, max_length=requests.LONGEST_TEXT, examples=["Use the team's mailbox instead."])
    seen: State | None = Field(None, description="The state in which you saw it; another one now is refused (409).")
    and_same: Flag = Field(False, description="Decline all that ask for the same alike.")


@router.get(
    "/consent-requests", response={200: ConsentRequestPage} | problems.responses(), summary="List consent requests"
)
def list_consent_requests(request: HttpRequest, wanted: Query[ConsentRequestsWanted]) -> Any:
    """All for IT admins and auditors, for others their own; newest first."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    found = querysets.visible_consent_requests(key.owner)
    if wanted.state is not None:
        found = found.filter(state=wanted.state)
    return page(found, wanted, describe=describe, order=("-asked_at", "-pk"))


@router.post(
    "/consent-requests",
    response={201: ConsentRequestOut} | problems.responses(404, *problems.CREATING),
    summary="Ask for consent",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def ask_consent(request: HttpRequest, response: HttpResponse, entry: ConsentRequestIn) -> Any:
    """Ask the IT admins; while a request for the same is open, it is answered."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, str(entry.connection_id))
    made = requests.request_consent(found, reason=entry.reason, actor=key.owner, now=timezone.now())
    with_location(response, "read_consent_request", request_id=made.pk)
    return Status(201, describe(made))


@router.get(
    "/consent-requests/{int:request_id}",
    response={200: ConsentRequestOut} | problems.responses(404),
    summary="Read a consent request",
)
def read_consent_request(request: HttpRequest, request_id: int) -> Any:
    """One request, and how it stands."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return describe(get_object_or_404(querysets.visible_consent_requests(key.owner), pk=request_id))


@router.post(
    "/consent-requests/{int:request_id}/approve",
    response={200: ConsentApproved} | problems.responses(404, *problems.CREATING),
    summary="Approve a consent request",
)
@idempotent(Scope.ADMIN_WRITE)
def approve_consent_request(request: HttpRequest, request_id: int) -> Any:
    """Approve it, and with it all that ask for the same. Somebody who may grant consent then follows the link."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    consent_request = get_object_or_404(querysets.visible_consent_requests(key.owner), pk=request_id)
    current, url = requests.approve(consent_request, actor=key.owner, now=timezone.now())
    return describe(current) | {"consent_link": url}


@router.post(
    "/consent-requests/{int:request_id}/decline",
    response={200: ConsentRequestOut} | problems.responses(404, *problems.CREATING),
    summary="Decline a consent request",
)
@idempotent(Scope.ADMIN_WRITE)
def decline_consent_request(request: HttpRequest, request_id: int, entry: Declined) -> Any:
    """Say no, with a reason that the requester reads."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    consent_request = get_object_or_404(querysets.visible_consent_requests(key.owner), pk=request_id)
    current = requests.decline(
        consent_request,
        reason=entry.reason,
        and_same=entry.and_same,
        seen=entry.seen or consent_request.state,
        actor=key.owner,
        now=timezone.now(),
    )
    return describe(current)


def describe(consent_request: ConsentRequest) -> dict[str, Any]:
    """A request as ConsentRequestOut."""
    columns = ("state", "connection_id", "connection_name", "app_registration_id", "directory_id", "reason", "asked_at")
    shown = {name: getattr(consent_request, name) for name in (*columns, "decided_at", "answer", "closed_at")}
    return {
        "id": consent_request.pk,
        **shown,
        "permissions": list(consent_request.permission_names),
        "requester": consent_request.requester_name,
        "decided_by": consent_request.decided_by_name,
        "link": page_link("consent_request", consent_request.pk),
    }
