from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema
from pydantic import Field

from connections.api import authentication, key_scoping
from connections.api.field_types import listed
from connections.api.hrefs import link_to
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import AffectedConnection, Connection, Incident

router = Router(tags=["Incidents"])
Kind = Annotated[Incident.Kind, listed(Incident.Kind)]
Who = Annotated[Connection.Who, listed(Connection.Who)]
MOST_NAMED = 100  # connections in one response


class IncidentOut(Schema):
    """One cause that breaks one or more connections. It is open until they work again."""

    id: int
    kind: Kind
    title: str
    is_open: bool
    code: str = Field(description="Microsoft's error code, if any.")
    cause: str
    action: str
    who: Who
    opened_at: datetime
    seen_at: datetime = Field(description="When it was last observed.")
    closed_at: datetime | None
    link: Annotated[str, link_to("incident")] = Field(validation_alias="pk")


class AffectedOut(Schema):
    connection_id: int | None = Field(description="Null if the connection was removed.")
    name: str = Field(validation_alias="connection_name")
    owner: str = Field(validation_alias="owner_name")
    since: datetime
    healed_at: datetime | None


class IncidentRead(IncidentOut):
    """An incident, with the affected connections that the key can see."""

    affected: list[AffectedOut] = Field(description=f"At most {MOST_NAMED}, unresolved ones first.")

    @staticmethod
    def resolve_affected(incident: Incident, context: dict[str, Any]) -> QuerySet[AffectedConnection]:
        affected = key_scoping.affected_connections(context["request"].auth).filter(incident=incident)
        return affected.order_by("healed_at", "connection_name", "pk")[:MOST_NAMED]


class IncidentQuery(PageQuery):
    not_columns = {"connection"}

    state: Literal["open", "closed"] | None = Field(None, description="Only open or resolved incidents.")
    kind: Kind | None = None
    connection: int | None = Field(
        None, ge=1, le=2**53, description="Only those that affect the connection with this ID."
    )

    def filter_state(self, state: str | None) -> Q:
        return Q(closed_at__isnull=state == "open")


@router.get("/incidents", response=page_of(IncidentOut), summary="List incidents")
def list_incidents(request: HttpRequest, query: Query[IncidentQuery]) -> Any:
    """Incidents that affect something the key can see, and outages at Microsoft. Newest first."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    incidents = key_scoping.incidents(key)
    if query.connection is not None:
        affected = key_scoping.affected_connections(key).filter(connection=query.connection)
        incidents = incidents.filter(pk__in=affected.order_by().values("incident"))
    return page(incidents, query, order=("-opened_at", "-pk"))


@router.get("/incidents/{int:incident_id}", response=IncidentRead, summary="Get an incident")
def read_incident(request: HttpRequest, incident_id: int) -> Any:
    """One incident: its cause, who can fix it, and the affected connections."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    return get_object_or_404(key_scoping.incidents(key), pk=incident_id)
