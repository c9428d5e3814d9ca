"""Incidents over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema
from pydantic import Field

from connections.access import querysets
from connections.api import authentication, key_scoping, problems
from connections.api.field_types import listed
from connections.api.hrefs import page_link
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.models import AffectedConnection, Connection, Incident

router = Router(tags=["Incidents"])
Kind = Annotated[Incident.Kind, listed(Incident.Kind)]
Who = Annotated[Connection.Who, listed(Connection.Who)]
MOST_NAMED = 100  # connections in one answer


class IncidentOut(Schema):
    """One cause that breaks one or many connections, open until a later success closes it."""

    id: int
    kind: Kind
    title: str
    is_open: bool
    code: str = Field(description="Microsoft's code, if there is one.")
    cause: str
    action: str
    who: Who
    opened_at: datetime
    seen_at: datetime = Field(description="When it was last observed.")
    closed_at: datetime | None
    link: str


class AffectedOut(Schema):
    """A connection that an incident hits."""

    connection_id: int | None = Field(description="Null if the connection was removed.")
    name: str
    owner: str
    since: datetime
    healed_at: datetime | None


class IncidentRead(IncidentOut):
    """An incident, with the connections it hits as far as the key may see them."""

    affected: list[AffectedOut] = Field(description=f"At most {MOST_NAMED}, those that still wait first.")


class IncidentPage(Page):
    """One page of incidents."""

    items: list[IncidentOut]


class IncidentsWanted(PageQuery):
    """Which incidents."""

    state: Literal["open", "closed"] | None = Field(None, description="Only those that are open, or healed.")
    kind: Kind | None = None
    connection: int | None = Field(
        None, ge=1, le=2**53, description="Only those that hit the connection of this number."
    )


@router.get("/incidents", response={200: IncidentPage} | problems.responses(), summary="List incidents")
def list_incidents(request: HttpRequest, wanted: Query[IncidentsWanted]) -> Any:
    """Incidents that hit what the key may see, and outages at Microsoft; newest first."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    found = key_scoping.incidents(key)
    if wanted.state is not None:
        found = found.filter(closed_at__isnull=wanted.state == "open")
    if wanted.kind is not None:
        found = found.filter(kind=wanted.kind)
    if wanted.connection is not None:
        hit = _visible(key).filter(connection=wanted.connection)
        found = found.filter(pk__in=hit.order_by().values("incident"))
    return page(found, wanted, describe=describe, order=("-opened_at", "-pk"))


@router.get(
    "/incidents/{int:incident_id}", response={200: IncidentRead} | problems.responses(404), summary="Read an incident"
)
def read_incident(request: HttpRequest, incident_id: int) -> Any:
    """One incident: cause, who must act, and what it hits."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    incident = get_object_or_404(key_scoping.incidents(key), pk=incident_id)
    hit = _visible(key).filter(incident=incident).order_by("healed_at", "connection_name", "pk")
    affected = [
        {
            "connection_id": row.connection_id,
            "name": row.connection_name,
            "owner": row.owner_name,
            "since": row.since,
            "healed_at": row.healed_at,
        }
        for row in hit[:MOST_NAMED]
    ]
    return describe(incident) | {"affected": affected}


def _visible(key: Any) -> Any:
    affected = querysets.visible_affected(key.owner)
    if key.only_chosen:
        return affected.filter(connection__in=authentication.visible_connections(key).order_by().values("pk"))
    return affected if key.owner else AffectedConnection.objects.none()


def describe(incident: Incident) -> dict[str, Any]:
    """An incident as IncidentOut."""
    columns = ("kind", "title", "is_open", "code", "cause", "action", "who", "opened_at", "seen_at", "closed_at")
    shown = {name: getattr(incident, name) for name in columns}
    return {"id": incident.pk, **shown, "link": page_link("incident", incident.pk)}
