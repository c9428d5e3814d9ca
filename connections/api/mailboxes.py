from datetime import datetime
from typing import Annotated, Any

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import Address, ChangeSchema, Label, Number, RequestSchema, Text, listed
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import ApiKey, Connection, MailboxAccess, SharedMailbox
from connections.models.connections import without_tokens
from connections.services.mailboxes import mailboxes, probes

router = Router(tags=["Mailboxes"])
State = Annotated[MailboxAccess.State, listed(MailboxAccess.State)]
COLUMNS = ("address", "display_name")


class MailboxOut(Schema):
    id: int
    address: str
    display_name: str
    tenant_id: int
    attached: int = Field(description="To how many connections that the key may see it is attached.")
    reached: int = Field(description="How many of them really reach it.")
    link: Annotated[str, link_to("mailbox")] = Field(validation_alias="pk")


class MailboxQuery(PageQuery):
    q: Annotated[Text, FilterLookup(["address__icontains", "display_name__icontains"])] = Field(
        "", max_length=100, description="Part of the address or the name."
    )
    tenant_id: int | None = Field(None, ge=1, le=2**53, description="Only those of this tenant.")


class MailboxIn(RequestSchema):
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
    address: str = Field(validation_alias="mailbox.address")
    state: State
    cause: str = Field(description="What was found, in words.")
    action: str = Field(description="What to do about it.")
    lack: str = Field(description="What exactly is missing, for programs.")
    probed_at: datetime | None


class AttachIn(RequestSchema):
    """A mailbox to be attached; one that is not registered yet is registered."""

    address: Address


class Probed(Schema):
    """The connection's mailboxes as they were just tested."""

    items: list[AttachedOut]


@router.get("/mailboxes", response=page_of(MailboxOut), summary="List mailboxes")
def list_mailboxes(request: HttpRequest, query: Query[MailboxQuery]) -> Any:
    """Shared mailboxes in the order of their addresses."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    return page(_counted_mailboxes(key), query, order=("address", "pk"))


@router.post("/mailboxes", response={201: MailboxOut} | problems.responses(404), summary="Register a mailbox")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_mailbox(request: HttpRequest, response: HttpResponse, body: MailboxIn) -> Any:
    """Attach it to a connection afterwards."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=body.tenant_id)
    mailbox = mailboxes.register(tenant, address=body.address, display_name=body.display_name, actor=key.owner)
    with_location(response, "read_mailbox", mailbox_id=mailbox.pk)
    return Status(201, _tagged(response, key, mailbox))


@router.get("/mailboxes/{int:mailbox_id}", response=MailboxOut, summary="Read a mailbox")
def read_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int) -> Any:
    """One shared mailbox."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    return _tagged(response, key, get_object_or_404(key_scoping.mailboxes(key), pk=mailbox_id))


@router.patch("/mailboxes/{int:mailbox_id}", response=MailboxOut, summary="Change a mailbox")
def change_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int, body: MailboxChanges) -> Any:
    """Correct its address or name."""
    key, mailbox = key_scoping.key_and_object(request, querysets.visible_mailboxes, mailbox_id, Scope.CONNECTIONS_WRITE)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        values = body.over(address=current.address, display_name=current.display_name)
        mailboxes.change(current, **values, actor=key.owner)
    return _tagged(response, key, current)


@router.delete(
    "/mailboxes/{int:mailbox_id}", response={204: None} | problems.responses(409, 412), summary="Remove a mailbox"
)
def remove_mailbox(request: HttpRequest, mailbox_id: int) -> Any:
    """Forget a mailbox that is attached to no connection."""
    key, mailbox = key_scoping.key_and_object(request, querysets.visible_mailboxes, mailbox_id, Scope.CONNECTIONS_WRITE)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        mailboxes.remove(current, actor=key.owner)
    return Status(204, None)


@router.get("/connections/{ref}/mailboxes", response=page_of(AttachedOut), summary="List a connection's mailboxes")
def list_attached(request: HttpRequest, ref: str, query: Query[PageQuery]) -> Any:
    """What is attached, and what the last test found."""
    _, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    return page(_attached_mailboxes(connection), query)


@router.post("/connections/{ref}/mailboxes", response={201: AttachedOut}, summary="Attach a mailbox")
@idempotent(Scope.CONNECTIONS_WRITE)
def attach_mailbox(request: HttpRequest, ref: str, body: AttachIn) -> Any:
    """It is tested within minutes, or at once by a probe. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    return mailboxes.attach_address(connection, address=body.address, actor=key.owner)


@router.delete("/connections/{ref}/mailboxes/{int:access_id}", response={204: None}, summary="Detach a mailbox")
def detach_mailbox(request: HttpRequest, ref: str, access_id: int) -> None:
    """The mailbox stays registered."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    mailboxes.detach(get_object_or_404(_attached_mailboxes(connection), pk=access_id), actor=key.owner)


@router.post(
    "/connections/{ref}/mailboxes/probe",
    response={200: Probed} | problems.responses(503),
    summary="Test a connection's mailboxes now",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def probe_mailboxes(request: HttpRequest, ref: str) -> Any:
    """Look into each of them with the connection's own token."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    probes.probe(connection, actor=key.owner, now=timezone.now())
    return {"items": _attached_mailboxes(connection)}


def _counted_mailboxes(key: ApiKey) -> QuerySet[SharedMailbox]:
    visible = Q(accesses__connection__in=authentication.visible_connections(key).order_by().values("pk"))
    reached = visible & Q(accesses__state=MailboxAccess.State.REACHABLE)
    return key_scoping.mailboxes(key).annotate(
        attached=Count("accesses", filter=visible), reached=Count("accesses", filter=reached)
    )


def _tagged(response: HttpResponse, key: ApiKey, mailbox: SharedMailbox) -> SharedMailbox:
    etags.tag(response, mailbox, COLUMNS)
    return _counted_mailboxes(key).get(pk=mailbox.pk)


def _attached_mailboxes(connection: Connection) -> QuerySet[MailboxAccess]:
    return without_tokens(connection.mailbox_accesses.select_related("mailbox", "connection"))
