"""Connections over the API: list and read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from ninja import Query, Router, Schema
from pydantic import Field

from connections.api import keys, problems
from connections.microsoft import capabilities
from connections.models import ApiKey, Connection

router = Router(tags=["Connections"])
PAGE = 100


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


class Wanted(Schema):
    """What is asked of the list."""

    after: int = Field(0, ge=0, le=2**62, description="The `next` of the page before.")
    name: str = Field("", max_length=120, description="Exactly this name.")
    capability: str = Field("", max_length=60, description="Only those that can do this, for example mail.read.")
    mailbox: str = Field("", max_length=320, description="Only those that reach this shared mailbox.")


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
        "link": link_of(connection),
    }


def link_of(connection: Connection) -> str:
    """The connection's page in the portal."""
    return str(settings.PORTAL_URL) + reverse("connection", args=[connection.pk])


def _can(connection: Connection, key: str) -> bool:
    return any(
        possible for _, possible, _ in capabilities.can([key], connection.granted, connection.authentication_type)
    )
