from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, key_scoping, problems
from connections.api.field_types import ChangeSchema, Number, RequestSchema, Text
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.errors import InvalidInput
from connections.models import ApiKey, Connection, ConnectionReference, Team
from connections.services.sharing import references

router = Router(tags=["References"])
COLUMNS = ("connection_id", "team_id", "description", "removed_at")
Description = Annotated[
    Text, Field(max_length=200, description="What automations use it for.", examples=["Reads invoices"])
]


class ReferenceOut(Schema):
    """A stable name that automations can use instead of a connection's ID or name."""

    name: str
    connection_id: int | None = Field(
        description="The connection that it points at. Null if there is none, or if it isn't visible to this key.",
        validation_alias="visible_connection_id",
    )
    connector: str = Field(description="Set if this is your default connection for a connector.")
    description: str
    owner: str = Field(description="The name of its owner.", validation_alias="owner.username")
    team_id: int | None = Field(description="The team whose members can also point it at another connection.")
    pointed_at: datetime = Field(description="When it started to point at this connection.")
    link: Annotated[str, link_to("reference")] = Field(validation_alias="pk")


class ReferenceKeyOut(Schema):
    """An API key that requested tokens by a reference within 30 days."""

    key_id: int | None
    key_name: str
    owner_name: str
    count: int
    last: datetime


class ReferenceKeysOut(Schema):
    items: list[ReferenceKeyOut]


class ReferenceQuery(PageQuery):
    q: Annotated[Text, FilterLookup(["name__icontains", "description__icontains"])] = Field(
        "", max_length=100, description="Part of the name or description."
    )


class ReferenceIn(RequestSchema):
    name: Text = Field(
        "",
        max_length=63,
        description="Lowercase letters, digits and hyphens. Empty with `connector`.",
        examples=["invoices-inbox"],
    )
    connection_id: Number = Field(description="The connection to point at.")
    connector: Text = Field(
        "",
        max_length=40,
        description="Make the connection your default for this connector, for example outlook, without a name.",
    )
    team_id: Number | None = Field(None, description="A team whose members can also point it elsewhere.")
    description: Description = ""


class ReferenceChanges(ChangeSchema):
    connection_id: Number | None = Field(None, description="Point it at this connection, for all calls from now on.")
    team_id: int | None = Field(None, ge=0, le=2**53, description="0 removes the team.")
    description: Description | None = None


@router.get("/references", response=page_of(ReferenceOut), summary="List references")
def list_references(request: HttpRequest, query: Query[ReferenceQuery]) -> Any:
    """References that are visible to the key, ordered by name."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ)
    result = page(_visible(key), query, order=("name", "pk"))
    _hide_targets(key, result["items"])
    return result


@router.post("/references", response={201: ReferenceOut} | problems.responses(404), summary="Create a reference")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_reference(request: HttpRequest, response: HttpResponse, body: ReferenceIn) -> Any:
    """Create a reference that the key's owner owns, or set their default connection for a connector."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    connection = authentication.find_connection(key, str(body.connection_id))
    now = timezone.now()
    if body.connector:
        if body.name or body.team_id or body.description:
            raise InvalidInput("A default has no name, team or description.", field="connector")
        reference = references.set_default(connection, body.connector, actor=key.owner, now=now)
    else:
        team = _team(body.team_id)
        reference = references.create(
            body.name, connection, team=team, description=body.description, actor=key.owner, now=now
        )
    with_location(response, "read_reference", name=reference.name)
    return Status(201, _tagged(response, key, reference))


@router.get("/references/{name}", response=ReferenceOut, summary="Get a reference")
def read_reference(request: HttpRequest, response: HttpResponse, name: str) -> Any:
    """One reference, by its name."""
    key = key_scoping.any_scope(request, Scope.CONNECTIONS_READ)
    return _tagged(response, key, _find(key, name))


@router.patch(
    "/references/{name}", response={200: ReferenceOut} | problems.responses(412), summary="Change a reference"
)
def change_reference(request: HttpRequest, response: HttpResponse, name: str, body: ReferenceChanges) -> Any:
    """Point the reference at another connection, or change its team and description.

    Token requests by its name use the new connection at once, if their API keys have access to it.
    """
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    reference = _find(key, name)
    now = timezone.now()
    target = authentication.find_connection(key, str(body.connection_id)) if body.connection_id else None
    with etags.lock_matching(request, reference, COLUMNS, part_of=target) as current:
        if target is not None:
            references.point(current, target, actor=key.owner, now=now)
        if body.team_id is not None or body.description is not None:
            references.change(
                current,
                team=current.team if body.team_id is None else _team(body.team_id),
                description=current.description if body.description is None else body.description,
                actor=key.owner,
            )
        elif target is None:
            roles.require(permissions.can_point_reference(key.owner, current), action="Ask its owner or an IT admin.")
    return _tagged(response, key, current)


@router.delete("/references/{name}", response={204: None} | problems.responses(412), summary="Remove a reference")
def remove_reference(request: HttpRequest, name: str) -> Any:
    """Remove the reference. Only its owner or an IT admin can create one with the same name again."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    with etags.lock_matching(request, _find(key, name), COLUMNS) as current:
        references.remove(current, actor=key.owner, now=timezone.now())
    return Status(204, None)


@router.get("/references/{name}/keys", response=ReferenceKeysOut, summary="List the API keys that use a reference")
def list_reference_keys(request: HttpRequest, name: str) -> Any:
    """Up to 50 API keys that requested tokens by this reference within 30 days, the latest first."""
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_READ)
    reference = _find(key, name)
    roles.require(
        permissions.can_point_reference(key.owner, reference) or permissions.can_read_audit(key.owner),
        action="Ask its owner.",
    )
    return {"items": references.keys_of(reference, now=timezone.now())}


def _visible(key: ApiKey) -> QuerySet[ConnectionReference]:
    """Return visible references; for a limited key, only those that point at its chosen connections."""
    visible = querysets.visible_references(key.owner)
    return visible.filter(connection__in=key.connections.values("pk")) if key.only_chosen else visible


def _find(key: ApiKey, name: str) -> ConnectionReference:
    if "\x00" in name:
        name = ""
    matching = querysets.referenced_by(key.owner, name).order_by().values("pk")
    return get_object_or_404(_visible(key), pk__in=matching)


def _team(number: int | None) -> Team | None:
    if not number:
        return None
    team = Team.objects.filter(pk=number).first()
    if team is None:
        raise InvalidInput("There is no team with this ID.", field="team_id")
    return team


def _hide_targets(key: ApiKey, rows: Iterable[ConnectionReference]) -> None:
    rows = list(rows)
    ids = [row.connection_id for row in rows if row.connection_id]
    visible: QuerySet[Connection] = authentication.visible_connections(key)
    visible_ids = set(visible.filter(pk__in=ids).order_by().values_list("pk", flat=True))
    for row in rows:
        row.visible_connection_id = row.connection_id if row.connection_id in visible_ids else None  # type: ignore[attr-defined]


def _tagged(response: HttpResponse, key: ApiKey, reference: ConnectionReference) -> ConnectionReference:
    _hide_targets(key, [reference])
    return etags.tag(response, reference, COLUMNS)
