"""Connections over the API: list, read, and fetch a token."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from ninja import Query, Router, Schema
from pydantic import Field

from connections import access, audit
from connections.api import keys, problems
from connections.errors import ConnectionUnusable, NotAllowed
from connections.microsoft import capabilities
from connections.models import ApiKey, Connection
from connections.services import api_keys, tokens

router = Router(tags=["Connections"])
PAGE = 100
LONGEST_VALIDITY = 3600


class ConnectionOut(Schema):
    """A connection as an automation sees it."""

    id: int
    name: str
    authentication_type: str
    status: str = Field(description="pending, active, reconnect_needed, consent_needed, blocked or disabled.")
    waits_for_app_registration: bool = Field(description="Microsoft rejects its app registration just now.")
    cause: str
    action: str
    who: str
    account: str
    owner: str
    granted: list[str]
    refreshed_at: datetime | None
    link: str


class ConnectionPage(Schema):
    """One page of connections; ``next`` is the ``after`` of the following page."""

    items: list[ConnectionOut]
    next: int | None


class TokenOut(Schema):
    """A valid access token."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_at: datetime
    scope: str


class Wanted(Schema):
    """What is asked of the list."""

    after: int = Field(0, ge=0, le=2**62, description="The `next` of the page before.")
    name: str = Field("", max_length=120, description="Exactly this name.")
    capability: str = Field("", max_length=60, description="Only those that can do this, for example mail.read.")
    mailbox: str = Field("", max_length=320, description="Only those that reach this shared mailbox.")


class TokenWanted(Schema):
    """What is asked of a token."""

    min_valid: int = Field(300, ge=0, le=LONGEST_VALIDITY, description="Seconds the token must last at least.")


@router.get(
    "/connections", response={200: ConnectionPage, 401: problems.Problem, 403: problems.Problem, 422: problems.Problem}
)
def list_connections(request: HttpRequest, wanted: Query[Wanted]) -> Any:
    """Connections the key may see, in the order of their ids."""
    key = keys.require_scope(request, ApiKey.Scope.CONNECTIONS_READ)
    found = keys.visible_connections(key).filter(pk__gt=wanted.after)
    if wanted.name:
        found = found.filter(name=wanted.name.replace("\x00", ""))
    if wanted.mailbox:
        found = found.filter(
            mailbox_accesses__mailbox__address__iexact=wanted.mailbox.replace("\x00", ""),
            mailbox_accesses__state="reachable",
        )
    rows = list(found.order_by("pk").distinct()[: PAGE + 1])
    items = [describe(row) for row in rows[:PAGE] if not wanted.capability or _can(row, wanted.capability)]
    return {"items": items, "next": rows[PAGE - 1].pk if len(rows) > PAGE else None}


@router.get(
    "/connections/{int:connection_id}",
    response={200: ConnectionOut, 401: problems.Problem, 403: problems.Problem, 404: problems.Problem},
)
def read_connection(request: HttpRequest, connection_id: int) -> Any:
    """One connection and its state."""
    key = keys.require_scope(request, ApiKey.Scope.CONNECTIONS_READ)
    return describe(get_object_or_404(keys.visible_connections(key), pk=connection_id))


@router.get(
    "/connections/{int:connection_id}/token",
    response={
        200: TokenOut,
        401: problems.Problem,
        403: problems.Problem,
        404: problems.Problem,
        409: problems.Problem,
        422: problems.Problem,
        503: problems.Problem,
    },
)
def fetch_token(
    request: HttpRequest,
    response: HttpResponse,
    connection_id: int,
    wanted: Query[TokenWanted],
) -> Any:
    """A valid access token. Never cached, never a refresh token.

    While a valid token exists, trouble at Microsoft does not reach the caller; the header `Portal-Trouble` tells of it.
    """
    key = keys.require_scope(request, ApiKey.Scope.TOKEN_READ)
    connection = get_object_or_404(keys.visible_connections(key), pk=connection_id)
    if not access.can_fetch_token(key.owner, connection):
        raise NotAllowed(
            "You may see this connection, but it is not shared with you.", action="Ask its owner to share it."
        )
    if connection.is_blocked_by_app and not _still_valid(connection, wanted.min_valid):
        return _refused(connection, _blocked_by_app(connection))
    try:
        token = tokens.hand_out(connection, now=timezone.now(), min_valid=wanted.min_valid)
    except ConnectionUnusable as error:
        return _refused(connection, error)
    api_keys.note_fetch(key, connection, address=audit.origin.get().address, now=timezone.now())
    response["Cache-Control"] = "no-store, private"
    if token.trouble:
        response["Portal-Trouble"] = token.trouble
    return {"access_token": token.access_token, "expires_at": token.expires_at, "scope": token.scope}


# --- Parts ----------------------------------------------------------------------------------------


def describe(connection: Connection) -> dict[str, Any]:
    """A connection as ConnectionOut."""
    return {
        "id": connection.pk,
        "name": connection.name,
        "authentication_type": connection.authentication_type,
        "status": connection.status,
        "waits_for_app_registration": connection.is_blocked_by_app,
        "cause": connection.status_cause,
        "action": connection.status_action,
        "who": connection.status_who,
        "account": connection.account_username,
        "owner": str(connection.owner),
        "granted": sorted(connection.granted),
        "refreshed_at": connection.refreshed_at,
        "link": _link(connection),
    }


def _link(connection: Connection) -> str:
    return str(settings.PORTAL_URL) + reverse("connection", args=[connection.pk])


def _can(connection: Connection, key: str) -> bool:
    return any(
        possible for _, possible, _ in capabilities.can([key], connection.granted, connection.authentication_type)
    )


def _still_valid(connection: Connection, min_valid: int) -> bool:
    return connection.expires_at is not None and (connection.expires_at - timezone.now()).total_seconds() > min_valid


def _blocked_by_app(connection: Connection) -> ConnectionUnusable:
    app = connection.app_registration
    return ConnectionUnusable(app.rejected_cause, action=app.rejected_action, code="app_credential_rejected")


def _refused(connection: Connection, error: ConnectionUnusable) -> HttpResponse:
    by_app = error.code == "app_credential_rejected"
    # Fetching the token may just have flagged it.
    connection.refresh_from_db(fields=["status_who"])
    who = "it_admin" if by_app else connection.status_who or "owner"
    return problems.of(error, who=who, link=_link(connection))
