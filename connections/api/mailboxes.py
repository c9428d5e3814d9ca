"""Shared mailboxes over the API: the register, and what is attached to a connection."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import Address, ChangeSchema, Label, Number, RequestSchema, Text, listed
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, matching, page
from connections.models import ApiKey, Connection, MailboxAccess, SharedMailbox
from connections.models.connections import without_tokens
from connections.services.mailboxes import mailboxes, probes

router = Router(tags=["Mailboxes"])
State = Annotated[MailboxAccess.State, listed(MailboxAccess.State)]
COLUMNS = ("address", "display_name")


class MailboxOut(Schema):
    """A shared mailbox."""

    id: int
    address: str
    display_name: str
    tenant_id: int
    attached: int = Field(description="To how many connections that the key may see it is attached.")
    reached: int = Field(description="How many of them really reach it.")
    link: str


class MailboxPage(Page):
    """One page of shared mailboxes."""

    items: list[MailboxOut]


class MailboxesWanted(PageQuery):
    """Which mailboxes."""

    q: Text = Field("", max_length=100, description="Part of the address or the name.")
    tenant_id: int | None = Field(None, ge=1, le=2**53, description="Only those of this tenant.")


class MailboxIn(RequestSchema):
    """A mailbox to be registered."""

    tenant_id: Number = Field(description="Number of the tenant it lives in.", examples=[1])
    address: Address
    display_name: Label = Field("", description="How people call it.", examples=["Support"])


class MailboxChanges(ChangeSchema):
    """What changes about a mailbox. A new address is tested again by every connection it is attached to."""

    address: Address | None = None
    display_name: Label | None = None


class AttachedOut(Schema):
    """A shared mailbox of a connection, and whether the connection really reaches it, as last tested."""

    id: int = Field(description="Number of the attachment, which also ends it.")
    mailbox_id: int
    address: str
    state: State
    cause: str = Field(description="What was found, in words.")
    action: str = Field(description="What to do about it.")
    lack: str = Field(description="What exactly is missing, for programs.")
    probed_at: datetime | None


class AttachedPage(Page):
    """One page of a connection's mailboxes."""

    items: list[AttachedOut]


class AttachIn(RequestSchema):
    """A mailbox to be attached; one that is not registered yet is registered."""

    address: Address


class Probed(Schema):
    """The connection's mailboxes as they were just tested."""

    items: list[AttachedOut]


# --- The register ---------------------------------------------------------------------------------


@router.get("/mailboxes", response={200: MailboxPage} | problems.responses(), summary="List mailboxes")
def list_mailboxes(request: HttpRequest, wanted: Query[MailboxesWanted]) -> Any:
    """Shared mailboxes in the order of their addresses."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    found = _counted(key).filter(matching(wanted.q, "address", "display_name"))
    if wanted.tenant_id is not None:
        found = found.filter(tenant=wanted.tenant_id)
    return page(found, wanted, describe=describe, order=("address", "pk"))


@router.post(
    "/mailboxes", response={201: MailboxOut} | problems.responses(404, *problems.CREATING), summary="Register a mailbox"
)
@idempotent(Scope.CONNECTIONS_WRITE)
def add_mailbox(request: HttpRequest, response: HttpResponse, entry: MailboxIn) -> Any:
    """Attach it to a connection afterwards."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=entry.tenant_id)
    made = mailboxes.register(tenant, address=entry.address, display_name=entry.display_name, actor=key.owner)
    with_location(response, "read_mailbox", mailbox_id=made.pk)
    return _told(response, key, made, 201)


@router.get(
    "/mailboxes/{int:mailbox_id}", response={200: MailboxOut} | problems.responses(404), summary="Read a mailbox"
)
def read_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int) -> Any:
    """One shared mailbox."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    return _told(response, key, get_object_or_404(key_scoping.mailboxes(key), pk=mailbox_id))


@router.patch(
    "/mailboxes/{int:mailbox_id}",
    response={200: MailboxOut} | problems.responses(*problems.CHANGING),
    summary="Change a mailbox",
)
def change_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int, entry: MailboxChanges) -> Any:
    """Correct its address or name."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    mailbox = get_object_or_404(key_scoping.mailboxes(key), pk=mailbox_id)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        values = entry.over(address=current.address, display_name=current.display_name)
        mailboxes.change(current, **values, actor=key.owner)
    return _told(response, key, current)


@router.delete(
    "/mailboxes/{int:mailbox_id}",
    response={204: None} | problems.responses(*problems.REMOVING),
    summary="Remove a mailbox",
)
def remove_mailbox(request: HttpRequest, mailbox_id: int) -> Any:
    """Forget a mailbox that is attached to no connection."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    mailbox = get_object_or_404(key_scoping.mailboxes(key), pk=mailbox_id)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        mailboxes.remove(current, actor=key.owner)
    return Status(204, None)


# --- On a connection ------------------------------------------------------------------------------


@router.get(
    "/connections/{ref}/mailboxes",
    response={200: AttachedPage} | problems.responses(404, 409),
    summary="List a connection's mailboxes",
)
def list_attached(request: HttpRequest, ref: str, wanted: Query[PageQuery]) -> Any:
    """What is attached, and what the last test found."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    return page(_attached(authentication.find_connection(key, ref)), wanted, describe=describe_attached)


@router.post(
    "/connections/{ref}/mailboxes",
    response={201: AttachedOut} | problems.responses(404, *problems.CREATING),
    summary="Attach a mailbox",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def attach_mailbox(request: HttpRequest, ref: str, entry: AttachIn) -> Any:
    """It is tested within minutes, or at once by a probe. Doing it twice is harmless."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    made = mailboxes.attach_address(found, address=entry.address, actor=key.owner)
    return Status(201, describe_attached(made))


@router.delete(
    "/connections/{ref}/mailboxes/{int:access_id}",
    response={204: None} | problems.responses(404, 409),
    summary="Detach a mailbox",
)
def detach_mailbox(request: HttpRequest, ref: str, access_id: int) -> Any:
    """The mailbox stays registered."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    mailboxes.detach(get_object_or_404(_attached(found), pk=access_id), actor=key.owner)
    return Status(204, None)


@router.post(
    "/connections/{ref}/mailboxes/probe",
    response={200: Probed} | problems.responses(404, *problems.CREATING, 503),
    summary="Test a connection's mailboxes now",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def probe_mailboxes(request: HttpRequest, ref: str) -> Any:
    """Look into each of them with the connection's own token."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    probes.probe(found, actor=key.owner, now=timezone.now())
    return {"items": [describe_attached(row) for row in _attached(found)]}


# --- Parts ----------------------------------------------------------------------------------------


def _counted(key: ApiKey) -> QuerySet[SharedMailbox]:
    mine = Q(accesses__connection__in=authentication.visible_connections(key).order_by().values("pk"))
    reached = mine & Q(accesses__state=MailboxAccess.State.REACHABLE)
    return key_scoping.mailboxes(key).annotate(
        attached=Count("accesses", filter=mine), reached=Count("accesses", filter=reached)
    )


def _told(response: HttpResponse, key: ApiKey, mailbox: SharedMailbox, status: int = 200) -> Status[dict[str, Any]]:
    etags.tag(response, mailbox, COLUMNS)
    return Status(status, describe(_counted(key).get(pk=mailbox.pk)))


def _attached(connection: Connection) -> QuerySet[MailboxAccess]:
    return without_tokens(connection.mailbox_accesses.select_related("mailbox", "connection"))


def describe(mailbox: Any) -> dict[str, Any]:
    """A mailbox, with its connections counted, as MailboxOut."""
    return {
        "id": mailbox.pk,
        "address": mailbox.address,
        "display_name": mailbox.display_name,
        "tenant_id": mailbox.tenant_id,
        "attached": mailbox.attached,
        "reached": mailbox.reached,
        "link": page_link("mailbox", mailbox.pk),
    }


def describe_attached(row: MailboxAccess) -> dict[str, Any]:
    """A mailbox of a connection as AttachedOut."""
    return {
        "id": row.pk,
        "mailbox_id": row.mailbox_id,
        "address": row.mailbox.address,
        "state": row.state,
        "cause": row.cause,
        "action": row.action,
        "lack": row.lack,
        "probed_at": row.probed_at,
    }
