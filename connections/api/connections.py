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

from connections import effective_status, mail_addresses, presentation
from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import (
    Address,
    AsText,
    Capabilities,
    ChangeSchema,
    Hosts,
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
from connections.effective_status import EffectiveStatus
from connections.errors import ApprovalNeeded, InvalidInput
from connections.microsoft import capabilities
from connections.models import AppRegistration, Connection, MailboxAccess, ResourceToken, SignInLink, Tenant
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections, sign_in_links
from connections.services.mailboxes import mailboxes
from connections.services.policy import next_steps
from connections.services.tokens import scheduler
from connections.validators import MOST_MAILBOXES, REASON_LENGTH, TAG_LENGTH, capability_errors, parse_tags

router = Router(tags=["Connections"])
Type = Annotated[AuthenticationType, listed(AuthenticationType)]
ConnectionStatus = Annotated[Connection.Status, listed(Connection.Status)]
ConnectionState = Annotated[EffectiveStatus, listed(EffectiveStatus)]
COLUMNS = ("name", "capabilities", "extra_scopes", "hosts", "owner_id")
_REASON = "The justification for the IT admin, if the policy requires approval."


class Named(Schema):
    id: int
    name: str


class ResourceOut(Schema):
    """A resource that the connection can request tokens for besides its own."""

    resource: str = Field(description="Its key, or its address. Send it as `resource` in a token request.")
    granted: Words = Field(validation_alias="granted_scopes", description="Permissions that Microsoft has granted.")
    code: str = Field(validation_alias="problem_code", description="Why there is no token for it. Usually empty.")
    cause: str = Field(validation_alias="problem_cause", description="The reason in words.")
    action: str = Field(validation_alias="problem_action", description="What to do about it.")
    who: str = Field(validation_alias="problem_who", description="Who can fix it, or empty.")


class ConnectionOut(Schema):
    id: int
    name: str
    authentication_type: Type
    status: ConnectionStatus = Field(description="The status as stored. See effective_status.")
    effective_status: ConnectionState = Field(
        description="The state that matters: the status, with the app registration, open requests and the account."
    )
    waits_for_app_registration: bool = Field(
        validation_alias="is_blocked_by_app", description="Microsoft rejects its app registration."
    )
    cause: str = Field(description="Why it isn't active. Empty if it is active.")
    action: str = Field(description="What to do about it.")
    who: str = Field(description="Who can fix it: owner, it_admin, microsoft, nobody, or empty.")
    account: str = Field(validation_alias="account_username", description="The Microsoft account that signed in.")
    owner: AsText
    owner_id: int
    app_registration: Named
    tenant: Named = Field(description="Its tenant, or a shared endpoint until a sign-in names a registered one.")
    capabilities: list[str] = Field(description="Its capabilities.")
    extra_scopes: Words = Field(description="Additional permissions beyond its capabilities.")
    resource: str = Field(description="What its tokens are for by default, for example graph or exchange.")
    resources: list[ResourceOut] = Field(description="Other resources that it can request tokens for.")
    hosts: list[str] = Field(description="The organisation's SharePoint and Dataverse addresses.")
    granted: Sorted = Field(description="Permissions that Microsoft has granted.")
    lacking: list[str] = Field(description="Missing permissions.")
    tags: list[str] = Field(description="Free words for finding it, in alphabetical order.")
    pending_mailboxes: list[str] = Field(description="Shared mailboxes that wait until their tenant is known.")
    connected_at: datetime | None = Field(description="When someone last signed in for it.")
    refreshed_at: datetime | None = Field(description="When Microsoft last renewed its token.")
    created_at: datetime
    link: Annotated[str, link_to("connection")] = Field(validation_alias="pk", description="Its page in the portal.")

    @staticmethod
    def resolve_effective_status(connection: Connection) -> EffectiveStatus:
        return effective_status.of(connection)

    @staticmethod
    def resolve_resources(connection: Connection) -> list[ResourceToken]:
        return list(connection.resource_tokens.all())

    @staticmethod
    def resolve_tags(connection: Connection) -> list[str]:
        return sorted(tag.name for tag in connection.tags.all())

    @staticmethod
    def resolve_hosts(connection: Connection) -> list[str]:
        return sorted(connection.hosts.values())

    @staticmethod
    def resolve_cause(connection: Connection) -> str:
        return presentation.connection_state(connection).cause

    @staticmethod
    def resolve_action(connection: Connection) -> str:
        advice = _advice(connection)
        return presentation.connection_state(connection, action=advice.action if advice is not None else "").action

    @staticmethod
    def resolve_who(connection: Connection) -> str:
        advice = _advice(connection)
        return presentation.assignee(connection, who=advice.who if advice is not None else "")

    @staticmethod
    def resolve_lacking(connection: Connection) -> list[str]:
        return list(connections.missing_permissions(connection))


def _advice(connection: Connection, facts: next_steps.Facts | None = None) -> next_steps.Advice | None:
    """Return next_steps.advice(), which is computed once per connection in a response."""
    if "_advice" not in connection.__dict__:
        connection.__dict__["_advice"] = next_steps.advice(connection, facts=facts)
    advice: next_steps.Advice | None = connection.__dict__["_advice"]
    return advice


class SignInLinkOut(Schema):
    """A sign-in link for a mailbox's owner, who needs no account in the portal."""

    url: str = Field(
        description="A page that shows the requester and the permissions, and leads to the Microsoft sign-in. Works once."
    )
    expires_at: datetime


class ConnectionMade(ConnectionOut):
    sign_in_link: SignInLinkOut | None = Field(
        description="Where the mailbox's owner signs in for a delegated connection. Null until it is approved."
    )


class ConnectionQuery(PageQuery):
    not_columns = {"capability"}

    name: Text = Field("", max_length=120, description="Exactly this name.")
    capability: Text = Field("", max_length=60, description="Only those with this capability, for example mail.read.")
    mailbox: Text = Field("", max_length=320, description="Only those attached to this shared mailbox.")
    tag: Text = Field("", max_length=TAG_LENGTH, description="Only those with this tag.")
    status: ConnectionStatus | None = Field(None, description="Only those with this status.")
    effective_status: ConnectionState | None = Field(None, description="Only those in this state.")
    owner: Annotated[Text, FilterLookup("owner__username")] = Field(
        "", max_length=150, description="Only those owned by the person with this user name."
    )

    def filter_effective_status(self, value: EffectiveStatus | None) -> Q:
        return Q() if value is None else effective_status.condition(EffectiveStatus(value))

    def filter_tag(self, tag: str | None) -> Q:
        try:
            names = parse_tags([tag or ""])
        except InvalidInput:
            return Q(pk=None)  # no connection has such a tag
        return Q(tags__name=names[0]) if names else Q()

    def filter_mailbox(self, address: str | None) -> Q:
        with suppress(InvalidInput):  # an invalid address matches no mailbox
            address = mail_addresses.parse(address or "")
        reachable = MailboxAccess.objects.filter(mailbox__address__iexact=address, state=MailboxAccess.State.REACHABLE)
        return Q(pk__in=reachable.order_by().values("connection"))


class ConnectionIn(RequestSchema):
    app_registration: Number = Field(description="The app registration's ID.", examples=[1])
    tenant_id: Number | None = Field(
        None, description="A tenant that uses the app registration. Default: the one where it is registered."
    )
    name: Name
    authentication_type: Type = Field(
        description="authorization_code: delegated. client_credentials: app-only, for IT admins.",
        examples=["authorization_code"],
    )
    capabilities: Capabilities = Field([], description="Its capabilities.", examples=[["mail.read"]])
    extra_scopes: Permissions = []
    hosts: Hosts = Field([], examples=[["contoso.sharepoint.com"]])
    shared_mailboxes: list[Address] = Field(
        [], max_length=MOST_MAILBOXES, description="Addresses of shared mailboxes. New ones are added."
    )
    reason: Text = Field("", max_length=REASON_LENGTH, description=_REASON)


class ConnectionChanges(ChangeSchema):
    """Changes to a connection. Added permissions are granted at the next sign-in."""

    name: Name | None = None
    capabilities: Capabilities | None = Field(None, examples=[["mail.read", "calendar.events"]])
    extra_scopes: Permissions | None = None
    hosts: Hosts | None = None
    reason: Text | None = Field(None, max_length=REASON_LENGTH, description=_REASON)


@router.get("/connections", response=page_of(ConnectionOut), summary="List connections")
def list_connections(request: HttpRequest, query: Query[ConnectionQuery]) -> Any:
    """The connections that the key can see, ordered by ID."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    keep = partial(_is_able, query.capability) if query.capability else None
    visible = authentication.visible_connections(key).prefetch_related("resource_tokens", "tags")
    result = page(visible, query, keep=keep)
    facts = next_steps.Facts.about(result["items"])
    for connection in result["items"]:
        _advice(connection, facts)
    return result


@router.post(
    "/connections", response={201: ConnectionMade} | problems.responses(404, 503), summary="Create a connection"
)
@idempotent(Scope.CONNECTIONS_WRITE)
def add_connection(request: HttpRequest, response: HttpResponse, body: ConnectionIn) -> Any:
    """Create a connection.

    An app-only connection gets its first token immediately. A delegated connection needs a sign-in: send the link in
    `sign_in_link` to the mailbox's owner, or have the connection's owner sign in on its page.
    """
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    roles.require(permissions.can_connect(key.owner), cause="Auditors have read-only access.", action="Ask a member.")
    app = get_object_or_404(querysets.visible_app_registrations(key.owner), pk=body.app_registration)
    _require_valid_capabilities(body.capabilities, body.extra_scopes, body.authentication_type)
    values: dict[str, Any] = body.model_dump(include={"name", "extra_scopes", "hosts", "reason"})
    values |= {"chosen": body.capabilities, "actor": key.owner, "now": timezone.now()}
    tenant, link = _tenant_of(app, body.tenant_id), None
    values |= {"tenant": tenant}
    if body.authentication_type == AuthenticationType.AUTHORIZATION_CODE:
        with transaction.atomic():
            # At a shared endpoint, the mailboxes' directory is known only after the sign-in.
            pending = body.shared_mailboxes if tenant.is_shared_endpoint else []
            known = [] if pending else body.shared_mailboxes
            attached = mailboxes.find_or_register(tenant, known, actor=key.owner)
            connection = connections.start_delegated(
                app, **values, shared_mailboxes=attached, pending_mailboxes=pending
            )
            with suppress(ApprovalNeeded):
                if not app.is_personal:
                    link = _link_with_token(*sign_in_links.create(connection, actor=key.owner, now=timezone.now()))
    else:
        roles.require(
            permissions.can_connect_app_only(key.owner),
            cause="App-only connections cover the whole tenant.",
            action="Ask an IT admin to create it.",
        )
        if tenant.is_shared_endpoint and body.shared_mailboxes:
            raise InvalidInput("App-only connections need a specific tenant.", field="tenant_id")
        attached = mailboxes.find_or_register(tenant, body.shared_mailboxes, actor=key.owner)
        connection = app_only.connect(app, **values, shared_mailboxes=attached)
        if connection.status != Connection.Status.PENDING:
            connections.probe_mailboxes(connection, actor=key.owner, now=timezone.now())
    connection.sign_in_link = link  # type: ignore[attr-defined]
    with_location(response, "read_connection", ref=connection.pk)
    return Status(201, etags.tag(response, connection, COLUMNS))


@router.get("/connections/{ref}", response=ConnectionOut, summary="Get a connection")
def read_connection(request: HttpRequest, response: HttpResponse, ref: str) -> Any:
    """One connection and its status. `ref` is its ID or name."""
    _, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    return etags.tag(response, connection, COLUMNS)


@router.patch("/connections/{ref}", response=ConnectionOut, summary="Change a connection")
def change_connection(request: HttpRequest, response: HttpResponse, ref: str, body: ConnectionChanges) -> Any:
    """Change the name and capabilities. `lacking` then lists the permissions to grant by a sign-in or admin consent."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    roles.require(permissions.can_reconnect(key.owner, connection), action="Only its owner can change it.")
    with etags.lock_matching(request, connection, COLUMNS) as current:
        values = body.over(
            name=current.name,
            capabilities=current.capabilities,
            extra_scopes=current.extra_scopes.split(),
            hosts=current.hosts,
            reason="",
        )
        chosen = values.pop("capabilities")
        _require_valid_capabilities(chosen, values["extra_scopes"], current.authentication_type)
        connections.change(current, chosen=chosen, **values, actor=key.owner, now=timezone.now())
    return etags.tag(response, authentication.find_connection(key, str(connection.pk)), COLUMNS)


@router.delete("/connections/{ref}", response={204: None} | problems.responses(412), summary="Remove a connection")
def remove_connection(request: HttpRequest, ref: str) -> Any:
    """Delete a connection and its tokens. The consent stays at Microsoft until you revoke it there."""
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
    """Test the connection with Microsoft now, and return its new status."""
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
    """Request the first token of a connection that needed approval. Safe to repeat."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connected = app_only.finish(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connected.pk))


@router.post("/connections/{ref}/disable", response=ConnectionOut, summary="Disable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def disable_connection(request: HttpRequest, ref: str) -> Any:
    """Disable a connection. Its sign-in is kept, so you can enable it again. Safe to repeat."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.disable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))


@router.post("/connections/{ref}/enable", response=ConnectionOut, summary="Enable a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def enable_connection(request: HttpRequest, ref: str) -> Any:
    """Enable a disabled connection. Safe to repeat."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    connections.enable(connection, actor=key.owner, now=timezone.now())
    return authentication.find_connection(key, str(connection.pk))


@router.post("/connections/{ref}/sign-in-link", response={201: SignInLinkOut}, summary="Create a sign-in link")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_sign_in_link(request: HttpRequest, ref: str) -> Any:
    """Create a link that is valid for 30 minutes and one sign-in. Earlier links for this connection become invalid."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    return _link_with_token(*sign_in_links.create(connection, actor=key.owner, now=timezone.now()))


def link_of(connection: Connection) -> str:
    return page_link("connection", connection.pk)


def _tenant_of(app: AppRegistration, tenant_id: int | None) -> Tenant:
    if tenant_id is None or tenant_id == app.tenant_id:
        return app.tenant
    return get_object_or_404(app.consents.select_related("tenant"), tenant=tenant_id).tenant


def _is_able(capability: str, connection: Connection) -> bool:
    rows = capabilities.can([capability], connection.granted, connection.authentication_type)
    return any(possible for _, possible, _ in rows)


def _require_valid_capabilities(chosen: list[str], extra_scopes: list[str], authentication_type: str) -> None:
    errors = capability_errors(chosen, extra_scopes, authentication_type)
    if errors:
        raise InvalidInput(" ".join(errors), field="capabilities")


def _link_with_token(link: SignInLink, token: str) -> dict[str, Any]:
    return {"url": page_link("sign_in_link", token), "expires_at": link.expires_at}
