"""Connections over the API: list, read, make, change, remove."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections import presentation
from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import (
    Address,
    Capabilities,
    ChangeSchema,
    Name,
    Number,
    Permissions,
    RequestSchema,
    Text,
    listed,
)
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.api.sign_in_links import SignInLinkOut, made_link
from connections.errors import ApprovalNeeded, InvalidInput
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, MailboxAccess, SharedMailbox, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections, sign_in_links
from connections.services.mailboxes import mailboxes
from connections.validators import MOST_MAILBOXES, REASON_LENGTH, capability_errors

router = Router(tags=["Connections"])
Type = Annotated[AuthenticationType, listed(AuthenticationType)]
ConnectionStatus = Annotated[Connection.Status, listed(Connection.Status)]
COLUMNS = ("name", "capabilities", "extra_scopes", "owner_id")
_REASON = "Why it is needed; the IT admin reads it where the policy wants an approval."


class Named(Schema):
    """Something with a name, and its number."""

    id: int
    name: str


class ConnectionOut(Schema):
    """A connection as an automation sees it."""

    id: int
    name: str
    authentication_type: Type
    status: ConnectionStatus
    waits_for_app_registration: bool = Field(description="Microsoft rejects its app registration just now.")
    cause: str = Field(description="Why it is not active, in words; empty while all is well.")
    action: str = Field(description="What to do about it.")
    who: str = Field(description="Who must do it: owner, it_admin, microsoft, nobody, or empty.")
    account: str = Field(description="The Microsoft account that signed in.")
    owner: str
    owner_id: int
    app_registration: Named
    capabilities: list[str] = Field(description="What it is for.")
    extra_scopes: list[str] = Field(description="Permissions it needs besides those of its capabilities.")
    granted: list[str] = Field(description="Permissions that Microsoft has granted.")
    lacking: list[str] = Field(description="Permissions that it needs and has not got.")
    connected_at: datetime | None = Field(description="When somebody last signed in for it.")
    refreshed_at: datetime | None = Field(description="When Microsoft last renewed its token.")
    created_at: datetime
    link: str = Field(description="Its page in the portal.")


class ConnectionMade(ConnectionOut):
    """A connection that was just made."""

    sign_in_link: SignInLinkOut | None = Field(
        description="For a delegated one: where its mailbox's owner signs in. Null while an approval is missing."
    )


class ConnectionPage(Page):
    """One page of connections."""

    items: list[ConnectionOut]


class ConnectionsWanted(PageQuery):
    """Which connections."""

    name: Text = Field("", max_length=120, description="Exactly this name.")
    capability: Text = Field("", max_length=60, description="Only those that can do this, for example mail.read.")
    mailbox: Text = Field("", max_length=320, description="Only those that reach this shared mailbox.")
    status: ConnectionStatus | None = Field(None, description="Only those in this status.")
    owner: Text = Field("", max_length=150, description="Only those of the person with this sign-in name.")


class ConnectionIn(RequestSchema):
    """A connection to be made."""

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


@router.get("/connections", response={200: ConnectionPage} | problems.responses(), summary="List connections")
def list_connections(request: HttpRequest, wanted: Query[ConnectionsWanted]) -> Any:
    """Connections the key may see, in the order of their numbers."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    found = authentication.visible_connections(key)
    exactly = {"name": wanted.name, "status": wanted.status, "owner__username": wanted.owner}
    found = found.filter(**{column: value for column, value in exactly.items() if value})
    if wanted.mailbox:
        reached = MailboxAccess.objects.filter(
            mailbox__address__iexact=wanted.mailbox, state=MailboxAccess.State.REACHABLE
        )
        found = found.filter(pk__in=reached.order_by().values("connection"))
    able = (lambda row: _can(row, wanted.capability)) if wanted.capability else None
    return page(found, wanted, describe=describe, keep=able)


@router.post(
    "/connections",
    response={201: ConnectionMade} | problems.responses(404, *problems.CREATING, 503),
    summary="Make a connection",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def add_connection(request: HttpRequest, response: HttpResponse, entry: ConnectionIn) -> Any:
    """An app-only connection gets its first token at once. A delegated one waits for a sign-in: send the link in
    `sign_in_link` to the mailbox's owner, or let the connection's owner sign in on its page.
    """
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    roles.require(
        permissions.can_connect(key.owner), cause="Auditors look, they do not connect.", action="Ask a member."
    )
    app = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=entry.app_registration)
    _require_sense(entry.capabilities, entry.extra_scopes, entry.authentication_type)
    wishes: dict[str, Any] = {
        "name": entry.name,
        "chosen": entry.capabilities,
        "extra_scopes": entry.extra_scopes,
        "actor": key.owner,
        "now": timezone.now(),
        "reason": entry.reason,
    }
    if entry.authentication_type == AuthenticationType.AUTHORIZATION_CODE:
        with transaction.atomic():
            attached = _registered(app, entry.shared_mailboxes, key.owner)
            made = connections.start_delegated(app, **wishes, shared_mailboxes=attached)
            link = _link(made, key.owner)
    else:
        roles.require(
            permissions.can_connect_app_only(key.owner),
            cause="An app-only connection reaches the whole tenant.",
            action="Ask an IT admin to make it.",
        )
        attached = _registered(app, entry.shared_mailboxes, key.owner)
        made, link = app_only.connect(app, **wishes, shared_mailboxes=attached), None
        if made.status != Connection.Status.PENDING:
            connections.probe_mailboxes(made, actor=key.owner, now=timezone.now())
    with_location(response, "read_connection", ref=made.pk)
    etags.tag(response, made, COLUMNS)
    return Status(201, describe(made) | {"sign_in_link": link})


@router.get(
    "/connections/{ref}", response={200: ConnectionOut} | problems.responses(404, 409), summary="Read a connection"
)
def read_connection(request: HttpRequest, response: HttpResponse, ref: str) -> Any:
    """One connection and its state. `ref` is its number or name."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    found = authentication.find_connection(key, ref)
    etags.tag(response, found, COLUMNS)
    return describe(found)


@router.patch(
    "/connections/{ref}",
    response={200: ConnectionOut} | problems.responses(*problems.CHANGING),
    summary="Change a connection",
)
def change_connection(request: HttpRequest, response: HttpResponse, ref: str, entry: ConnectionChanges) -> Any:
    """Change its name and what it is for. `lacking` then says what a new sign-in, or an administrator, must grant."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    roles.require(permissions.can_reconnect(key.owner, found), action="Only its owner can change it.")
    with etags.lock_matching(request, found, COLUMNS) as current:
        values = entry.over(
            name=current.name,
            capabilities=current.capabilities,
            extra_scopes=current.extra_scopes.split(),
            reason="",
        )
        _require_sense(values["capabilities"], values["extra_scopes"], current.authentication_type)
        chosen = values.pop("capabilities")
        connections.change(current, chosen=chosen, **values, actor=key.owner, now=timezone.now())
    found = authentication.find_connection(key, str(found.pk))
    etags.tag(response, found, COLUMNS)
    return describe(found)


@router.delete(
    "/connections/{ref}", response={204: None} | problems.responses(*problems.REMOVING), summary="Remove a connection"
)
def remove_connection(request: HttpRequest, ref: str) -> Any:
    """Delete it with its tokens. At Microsoft the consent stays until somebody withdraws it there."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    with etags.lock_matching(request, found, COLUMNS) as current:
        connections.remove(current, actor=key.owner, now=timezone.now())
    return Status(204, None)


# --- Parts ----------------------------------------------------------------------------------------


def describe(connection: Connection) -> dict[str, Any]:
    """A connection as ConnectionOut."""
    state = presentation.connection_state(connection)
    return {
        "id": connection.pk,
        "name": connection.name,
        "authentication_type": connection.authentication_type,
        "status": connection.status,
        "waits_for_app_registration": connection.is_blocked_by_app,
        "cause": state.cause,
        "action": state.action,
        "who": Connection.Who.IT_ADMIN if connection.is_blocked_by_app else connection.status_who,
        "account": connection.account_username,
        "owner": str(connection.owner),
        "owner_id": connection.owner_id,
        "app_registration": {"id": connection.app_registration_id, "name": connection.app_registration.name},
        "capabilities": connection.capabilities,
        "extra_scopes": connection.extra_scopes.split(),
        "granted": sorted(connection.granted),
        "lacking": list(connections.missing_permissions(connection)),
        "connected_at": connection.connected_at,
        "refreshed_at": connection.refreshed_at,
        "created_at": connection.created_at,
        "link": link_of(connection),
    }


def link_of(connection: Connection) -> str:
    """The connection's page in the portal."""
    return page_link("connection", connection.pk)


def _can(connection: Connection, key: str) -> bool:
    return any(
        possible for _, possible, _ in capabilities.can([key], connection.granted, connection.authentication_type)
    )


def _require_sense(chosen: list[str], extra_scopes: list[str], authentication_type: str) -> None:
    wrong = capability_errors(chosen, extra_scopes, authentication_type)
    if wrong:
        raise InvalidInput(" ".join(wrong), field="capabilities")


def _registered(app: AppRegistration, addresses: list[str], actor: User) -> list[SharedMailbox]:
    """The mailboxes with these addresses; those that nobody has registered are."""
    known = {mailbox.address.lower(): mailbox for mailbox in app.tenant.shared_mailboxes.all()} if addresses else {}
    wanted = {address.lower(): address for address in addresses}
    return [
        known.get(lower) or mailboxes.register(app.tenant, address=address, actor=actor)
        for lower, address in wanted.items()
    ]


def _link(connection: Connection, actor: User) -> dict[str, Any] | None:
    try:
        return made_link(*sign_in_links.create(connection, actor=actor, now=timezone.now()))
    except ApprovalNeeded:
        return None
