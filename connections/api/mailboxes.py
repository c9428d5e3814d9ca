from datetime import datetime
from typing import Annotated, Any

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets
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
    attached: int = Field(description="Number of visible connections it is attached to.")
    reached: int = Field(description="Number of these connections that can access it.")
    link: Annotated[str, link_to("mailbox")] = Field(validation_alias="pk")


class MailboxQuery(PageQuery):
    q: Annotated[Text, FilterLookup(["address__icontains", "display_name__icontains"])] = Field(
        "", max_length=100, description="Part of the address or the name."
    )
    tenant_id: int | None = Field(None, ge=1, le=2**53, description="Only those in this tenant.")


class MailboxIn(RequestSchema):
    tenant_id: Number = Field(description="The tenant's ID.", examples=[1])
    address: Address
    display_name: Label = Field("", description="The display name.", examples=["Support"])


class MailboxChanges(ChangeSchema):
    """Changes to a mailbox. A new address is tested again through every connection to which the mailbox is attached."""

    address: Address | None = None
    display_name: Label | None = None


class AttachedOut(Schema):
    """A shared mailbox of a connection, and whether the last test could reach it."""

    id: int = Field(description="The attachment's ID. Use it to detach the mailbox.")
    mailbox_id: int
    address: str = Field(validation_alias="mailbox.address")
    state: State
    cause: str = Field(description="The result, in words.")
    action: str = Field(description="What to do about it.")
    lack: str = Field(description="What is missing, for programs.")
    probed_at: datetime | None


class AttachIn(RequestSchema):
    """A mailbox to attach. It is added first if necessary."""

    address: Address


class Probed(Schema):
    """The connection's mailboxes, with the results of this test."""

    items: list[AttachedOut]


@router.get("/mailboxes", response=page_of(MailboxOut), summary="List mailboxes")
def list_mailboxes(request: HttpRequest, query: Query[MailboxQuery]) -> Any:
    """Shared mailboxes, ordered by address."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    listed = page(key_scoping.mailboxes(key), query, order=("address", "pk"))
    return listed | {"items": _counted(key, listed["items"])}


@router.post("/mailboxes", response={201: MailboxOut} | problems.responses(404), summary="Add a mailbox")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_mailbox(request: HttpRequest, response: HttpResponse, body: MailboxIn) -> Any:
    """Add a mailbox. You can then attach it to connections."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=body.tenant_id)
    mailbox = mailboxes.register(tenant, address=body.address, display_name=body.display_name, actor=key.owner)
    with_location(response, "read_mailbox", mailbox_id=mailbox.pk)
    return Status(201, _tagged(response, key, mailbox))


@router.get("/mailboxes/{int:mailbox_id}", response=MailboxOut, summary="Get a mailbox")
def read_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int) -> Any:
    """One shared mailbox."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ, Scope.ADMIN_READ)
    return _tagged(response, key, get_object_or_404(key_scoping.mailboxes(key), pk=mailbox_id))


@router.patch("/mailboxes/{int:mailbox_id}", response=MailboxOut, summary="Change a mailbox")
def change_mailbox(request: HttpRequest, response: HttpResponse, mailbox_id: int, body: MailboxChanges) -> Any:
    """Change a mailbox's address or name."""
    key, mailbox = key_scoping.key_and_object(request, querysets.visible_mailboxes, mailbox_id, Scope.CONNECTIONS_WRITE)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        values = body.over(address=current.address, display_name=current.display_name)
        mailboxes.change(current, **values, actor=key.owner)
    return _tagged(response, key, current)


@router.delete(
    "/mailboxes/{int:mailbox_id}", response={204: None} | problems.responses(409, 412), summary="Remove a mailbox"
)
def remove_mailbox(request: HttpRequest, mailbox_id: int) -> Any:
    """Delete a mailbox that is not attached to any connection."""
    key, mailbox = key_scoping.key_and_object(request, querysets.visible_mailboxes, mailbox_id, Scope.CONNECTIONS_WRITE)
    with etags.lock_matching(request, mailbox, COLUMNS) as current:
        mailboxes.remove(current, actor=key.owner)
    return Status(204, None)


@router.get("/connections/{ref}/mailboxes", response=page_of(AttachedOut), summary="List a connection's mailboxes")
def list_attached(request: HttpRequest, ref: str, query: Query[PageQuery]) -> Any:
    """The connection's mailboxes and their last test results."""
    _, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    return page(_attached_mailboxes(connection), query)


@router.post("/connections/{ref}/mailboxes", response={201: AttachedOut}, summary="Attach a mailbox")
@idempotent(Scope.CONNECTIONS_WRITE)
def attach_mailbox(request: HttpRequest, ref: str, body: AttachIn) -> Any:
    """Attach a mailbox. It is tested within minutes. To test it immediately, use probe. Safe to repeat."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    return mailboxes.attach_address(connection, address=body.address, actor=key.owner)


@router.delete("/connections/{ref}/mailboxes/{int:access_id}", response={204: None}, summary="Detach a mailbox")
def detach_mailbox(request: HttpRequest, ref: str, access_id: int) -> None:
    """Detach a mailbox from the connection. The mailbox itself isn't removed."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    mailboxes.detach(get_object_or_404(_attached_mailboxes(connection), pk=access_id), actor=key.owner)


@router.post(
    "/connections/{ref}/mailboxes/probe",
    response={200: Probed} | problems.responses(503),
    summary="Test a connection's mailboxes now",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def probe_mailboxes(request: HttpRequest, ref: str) -> Any:
    """Test each mailbox with the connection's own token."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    probes.probe(connection, actor=key.owner, now=timezone.now())
    return {"items": _attached_mailboxes(connection)}


def _counted(key: ApiKey, listed: list[SharedMailbox]) -> list[SharedMailbox]:
    """Set and return the mailboxes' numbers of attached and reached connections, as far as the key can see them."""
    accesses = MailboxAccess.objects.filter(mailbox__in=listed)
    if key.only_chosen or not permissions.can_read_registry(key.owner):
        accesses = accesses.filter(connection__in=authentication.visible_connections(key).order_by().values("pk"))
    numbers = (
        accesses.order_by()
        .values_list("mailbox")
        .annotate(attached=Count("pk"), reached=Count("pk", filter=Q(state=MailboxAccess.State.REACHABLE)))
    )
    by_mailbox = {pk: counted for pk, *counted in numbers}
    for mailbox in listed:
        mailbox.__dict__["attached"], mailbox.__dict__["reached"] = by_mailbox.get(mailbox.pk, (0, 0))
    return listed


def _tagged(response: HttpResponse, key: ApiKey, mailbox: SharedMailbox) -> SharedMailbox:
    etags.tag(response, mailbox, COLUMNS)
    (counted,) = _counted(key, [key_scoping.mailboxes(key).get(pk=mailbox.pk)])
    return counted


def _attached_mailboxes(connection: Connection) -> QuerySet[MailboxAccess]:
    return without_tokens(connection.mailbox_accesses.select_related("mailbox", "connection"))
