from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections import presentation
from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import (
    Address,
    AsText,
    Capabilities,
    ChangeSchema,
    Name,
    Number,
    Permissions,
    RequestSchema,
    Sorted,
    Text,
    Words,
    listed,
)
from connections.api.hrefs import link_to, page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.errors import ApprovalNeeded, InvalidInput
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, MailboxAccess, SharedMailbox, SignInLink, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections, sign_in_links
from connections.services.mailboxes import mailboxes
from connections.services.tokens import scheduler
from connections.validators import MOST_MAILBOXES, REASON_LENGTH, capability_errors

router = Router(tags=["Connections"])
Type = Annotated[AuthenticationType, listed(AuthenticationType)]
ConnectionStatus = Annotated[Connection.Status, listed(Connection.Status)]
COLUMNS = ("name", "capabilities", "extra_scopes", "owner_id")
_REASON = "Why it is needed; the IT admin reads it where the policy wants an approval."


class Named(Schema):
    id: int
    name: str


class ConnectionOut(Schema):
    id: int
    name: str
    authentication_type: Type
    status: ConnectionStatus
    waits_for_app_registration: bool = Field(
        validation_alias="is_blocked_by_app", description="Microsoft rejects its app registration just now."
    )
    cause: str = Field(description="Why it is not active, in words; empty while all is well.")
    action: str = Field(description="What to do about it.")
    who: str = Field(description="Who must do it: owner, it_admin, microsoft, nobody, or empty.")
    account: str = Field(validation_alias="account_username", description="The Microsoft account that signed in.")
    owner: AsText
    owner_id: int
    app_registration: Named
    capabilities: list[str] = Field(description="What it is for.")
    extra_scopes: Words = Field(description="Permissions it needs besides those of its capabilities.")
    granted: Sorted = Field(description="Permissions that Microsoft has granted.")
    lacking: list[str] = Field(description="Permissions that it needs and has not got.")
    connected_at: datetime | None = Field(description="When somebody last signed in for it.")
    refreshed_at: datetime | None = Field(description="When Microsoft last renewed its token.")
    created_at: datetime
    link: Annotated[str, link_to("connection")] = Field(validation_alias="pk", description="Its page in the portal.")

    @staticmethod
    def resolve_cause(connection: Connection) -> str:
        return presentation.connection_state(connection).cause

    @staticmethod
    def resolve_action(connection: Connection) -> str:
        return presentation.connection_state(connection).action

    @staticmethod
    def resolve_who(connection: Connection) -> str:
        return Connection.Who.IT_ADMIN if connection.is_blocked_by_app else connection.status_who

    @staticmethod
    def resolve_lacking(connection: Connection) -> list[str]:
        return list(connections.missing_permissions(connection))


class SignInLinkOut(Schema):
    """A link that can be sent to the owner of a mailbox, who needs no account in the portal."""

    url: str = Field(description="Whoever opens it sees who asks and for what, and signs in at Microsoft. Works once.")
    expires_at: datetime


class ConnectionMade(ConnectionOut):
    sign_in_link: SignInLinkOut | None = Field(
        description="For a delegated one: where its mailbox's owner signs in. Null while an approval is missing."
    )


class ConnectionQuery(PageQuery):
    not_columns = {"capability"}

    name: Text = Field("", max_length=120, description="Exactly this name.")
    capability: Text = Field("", max_length=60, description="Only those that can do this, for example mail.read.")
    mailbox: Text = Field("", max_length=320, description="Only those that reach this shared mailbox.")
    status: ConnectionStatus | None = Field(None, description="Only those in this status.")
    owner: Annotated[Text, FilterLookup("owner__username")] = Field(
        "", max_length=150, description="Only those of the person with this sign-in name."
    )

    def filter_mailbox(self, address: str | None) -> Q:
        reachable = MailboxAccess.objects.filter(mailbox__address__iexact=address, state=MailboxAccess.State.REACHABLE)
        return Q(pk__in=reachable.order_by().values("connection"))


class ConnectionIn(RequestSchema):
    app_registration: Number = Field(description="Number of the app registration it goes through.", examples=[1])
    name: Name
    authentication_type: Type = Field(
        description="authorization_code: a person signs in. client_credentials: the application itself, for IT admins.",
        examples=["authorization_code"],
    )
    capabilities: Capabilities = Field([], description="What it is for.", examples=[["mail.read"]])
    extra_scopes: Permissions = []
    shared_mailboxes: list[Address] = Field(
        [], max_length=MOST_MAILBOXES, description="Addresses; one that is not registered yet is registered."
    )
    reason: Text = Field("", max_length=REASON_LENGTH, description=_REASON)


class ConnectionChanges(ChangeSchema):
    """What changes about a connection. What is added is granted at the next sign-in."""

    name: Name | None = None
    capabilities: Capabilities | None = Field(None, examples=[["mail.read", "calendar.events"]])
    extra_scopes: Permissions | None = None
    reason: Text | None = Field(None, max_length=REASON_LENGTH, description=_REASON)


@router.get("/connections", response=page_of(ConnectionOut), summary="List connections")
def list_connections(request: HttpRequest, query: Query[ConnectionQuery]) -> Any:
    """Connections the key may see, in the order of their numbers."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    keep = partial(_is_able, query.capability) if query.capability else None
    return page(authentication.visible_connections(key), query, keep=keep)


@router.post("/connections", response={201: ConnectionMade} | problems.responses(404, 503), summary="Make a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_connection(request: HttpRequest, response: HttpResponse, body: ConnectionIn) -> Any:
    """An app-only connection gets its first token at once. A delegated one waits for a sign-in: send the link in
    `sign_in_link` to the mailbox's owner, or let the connection's owner sign in on its page.
    """
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    roles.require(
        permissions.can_connect(key.owner), cause="Auditors look, they do not connect.", action="Ask a member."
    )
    app = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=body.app_registration)
    _require_valid_capabilities(body.capabilities, body.extra_scopes, body.authentication_type)
    values: dict[str, Any] = body.model_dump(include={"name", "extra_scopes", "reason"})
    values |= {"chosen": body.capabilities, "actor": key.owner, "now": timezone.now()}
    link = None
    if body.authentication_type == AuthenticationType.AUTHORIZATION_CODE:
        with transaction.atomic():
            attached = _find_or_register(app, body.shared_mailboxes, key.owner)
            connection = connections.start_delegated(app, **values, shared_mailboxes=attached)
            with suppress(ApprovalNeeded):
                link = _link_with_token(*sign_in_links.create(connection, actor=key.owner, now=timezone.now()))
    else:
        roles.require(
            permissions.can_connect_app_only(key.owner),
            cause="An app-only connection reaches the whole tenant.",
            action="Ask an IT admin to make it.",
        )
        attached = _find_or_register(app, body.shared_mailboxes, key.owner)
        connection = app_only.connect(app, **values, shared_mailboxes=attached)
        if connection.status != Connection.Status.PENDING:
            connections.probe_mailboxes(connection, actor=key.owner, now=timezone.now())
    connection.sign_in_link = link  # type: ignore[attr-defined]
    with_location(response, "read_connection", ref=connection.pk)
    return Status(201, etags.tag(response, connection, COLUMNS))


@router.get("/connections/{ref}", response=ConnectionOut, summary="Read a connection")
def read_connection(request: HttpRequest, response: HttpResponse, ref: str) -> Any:
    """One connection and its state. `ref` is its number or name."""
    _, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    return etags.tag(response, connection, COLUMNS)


@router.patch("/connections/{ref}", response=ConnectionOut, summary="Change a connection")
def change_connection(request: HttpRequest, response: HttpResponse, ref: str, body: ConnectionChanges) -> Any:
    """Change its name and what it is for. `lacking` then says what a new sign-in, or an administrator, must grant."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    roles.require(permissions.can_reconnect(key.owner, connection), action="Only its owner can change it.")
    with etags.lock_matching(request, connection, COLUMNS) as current:
        values = body.over(
            name=current.name, capabilities=current.capabilities, extra_scopes=current.extra_scopes.split(), reason=""
        )
        chosen = values.pop("capabilities")
        _require_valid_capabilities(chosen, values["extra_scopes"], current.authentication_type)
        connections.change(current, chosen=chosen, **values, actor=key.owner, now=timezone.now())
    return etags.tag(response, authentication.find_connection(key, str(connection.pk)), COLUMNS)


@router.delete("/connections/{ref}", response={204: None} | problems.responses(412), summary="Remove a connection")
def remove_connection(request: HttpRequest, ref: str) -> Any:
    """Delete it with its tokens. At Microsoft the consent stays until somebody withdraws it there."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    with etags.lock_matching(request, connection, COLUMNS) as current:
        connections.remove(current, actor=key.owner, now=timezone.now())
    return Status(204, None)


@router.post(
    "/connections/{ref}/check",
    response={200: ConnectionOut} | problems.responses(503),
    summary="Check a connection now",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def check_connection(request: HttpRequest, ref: str) -> Any:
    """Ask Microsoft whether it is alive, and answer how it then stands."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    checked = scheduler.check_now(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(checked.pk))


@router.post(
    "/connections/{ref}/connect",
    response={200: ConnectionOut} | problems.responses(503),
    summary="Finish an app-only connection",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def connect_connection(request: HttpRequest, ref: str) -> Any:
    """Get the first token of one that waited for its approval. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connected = app_only.finish(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connected.pk))


@router.post("/connections/{ref}/disable", response=ConnectionOut, summary="Disable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def disable_connection(request: HttpRequest, ref: str) -> Any:
    """Stop using it; its grant is kept. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.disable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))


@router.post("/connections/{ref}/enable", response=ConnectionOut, summary="Enable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def enable_connection(request: HttpRequest, ref: str) -> Any:
    """Use a disabled one again. Doing it twice is harmless."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.enable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))


@router.post("/connections/{ref}/sign-in-link", response={201: SignInLinkOut}, summary="Make a sign-in link")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_sign_in_link(request: HttpRequest, ref: str) -> Any:
    """A link that lives 30 minutes and works once; an earlier one of the same connection no longer works."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    return _link_with_token(*sign_in_links.create(connection, actor=key.owner, now=timezone.now()))


def link_of(connection: Connection) -> str:
    return page_link("connection", connection.pk)


def _is_able(capability: str, connection: Connection) -> bool:
    rows = capabilities.can([capability], connection.granted, connection.authentication_type)
    return any(possible for _, possible, _ in rows)


def _require_valid_capabilities(chosen: list[str], extra_scopes: list[str], authentication_type: str) -> None:
    errors = capability_errors(chosen, extra_scopes, authentication_type)
    if errors:
        raise InvalidInput(" ".join(errors), field="capabilities")


def _find_or_register(app: AppRegistration, addresses: list[str], actor: User) -> list[SharedMailbox]:
    """Return the mailboxes with these addresses, registering unknown ones."""
    known = {mailbox.address.lower(): mailbox for mailbox in app.tenant.shared_mailboxes.all()} if addresses else {}
    unique = {address.lower(): address for address in addresses}
    return [
        known.get(lower) or mailboxes.register(app.tenant, address=address, actor=actor)
        for lower, address in unique.items()
    ]


def _link_with_token(link: SignInLink, token: str) -> dict[str, Any]:
    return {"url": page_link("sign_in_link", token), "expires_at": link.expires_at}
