from datetime import datetime
from typing import Annotated, Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, problems
from connections.api.field_types import Moment, Number, RequestSchema, Text, listed
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.errors import InvalidInput
from connections.models import Connection, Share
from connections.services.sharing import emergency, shares

router = Router(tags=["Sharing"])
Level = Annotated[Share.Level, listed(Share.Level)]
COLUMNS = ("level", "until", "ended_at")


class ShareOut(Schema):
    """A share: who can use or manage a connection."""

    id: int
    person_id: int | None = Field(description="The person it is shared with. Null for a team.")
    team_id: int | None
    name: str = Field(description="The name of the person or team.")
    level: Level = Field(description="use: request tokens. manage: also sign in again and share.")
    until: datetime | None = Field(description="When it expires. Null: never.")
    created_at: datetime

    @staticmethod
    def resolve_name(share: Share) -> str:
        return str(share.person or share.team)


class ShareIn(RequestSchema):
    """A share to create, with either a person or a team."""

    person_id: Number | None = Field(None, examples=[7])
    team_id: Number | None = None
    level: Level = Field(Share.Level.USE, examples=["use"])
    until: Moment | None = Field(None, description="When it expires, within three years. Null: never.")


class ShareChanges(RequestSchema):
    """Changes to a share. Fields that are not sent keep their values; ``until`` null removes the expiration date."""

    level: Level | None = Field(None, examples=["manage"])
    until: Moment | None = None


class EmergencyIn(RequestSchema):
    hours: int = Field(1, ge=1, le=168, description="For how long; the portal's operator sets the longest time.")
    reason: Text = Field(
        min_length=1,
        max_length=emergency.REASON_LENGTH,
        description="The owner, all IT admins and the auditors read it.",
        examples=["Bob is unreachable and invoices are waiting."],
    )


@router.get("/connections/{ref}/shares", response=page_of(ShareOut), summary="List shares")
def list_shares(request: HttpRequest, ref: str, query: Query[PageQuery]) -> Any:
    """The connection's active shares."""
    _, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_READ, ref)
    return page(_active_shares(connection), query)


@router.post("/connections/{ref}/shares", response={201: ShareOut}, summary="Share a connection")
@idempotent(Scope.CONNECTIONS_WRITE)
def add_share(request: HttpRequest, response: HttpResponse, ref: str, body: ShareIn) -> Any:
    """Share the connection. Sharing again with the same person or team changes the level and the expiration date."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    roles.require(permissions.can_share(key.owner, connection), action="Ask its owner or an IT admin to share it.")
    if (body.person_id is None) == (body.team_id is None):
        raise InvalidInput("Send either person_id or team_id.", field="person_id")
    people, teams = querysets.accounts(), querysets.visible_teams(key.owner)
    share = shares.share(
        connection,
        person=get_object_or_404(people, pk=body.person_id) if body.person_id is not None else None,
        team=get_object_or_404(teams, pk=body.team_id) if body.team_id is not None else None,
        level=body.level,
        until=body.until,
        actor=key.owner,
        now=timezone.now(),
    )
    return etags.tag(response, share, COLUMNS)


@router.post(
    "/connections/{ref}/emergency-access", response={201: ShareOut}, summary="Take emergency access to a connection"
)
@idempotent(Scope.ADMIN_WRITE)
def take_emergency_access(request: HttpRequest, ref: str, body: EmergencyIn) -> Any:
    """For IT admins: use the connection for a few hours. Alerts its owner, all IT admins and the auditors at once."""
    key, connection = authentication.key_and_connection(request, Scope.ADMIN_WRITE, ref)
    return emergency.take(connection, hours=body.hours, reason=body.reason, actor=key.owner, now=timezone.now())


@router.patch("/connections/{ref}/shares/{int:share_id}", response=ShareOut, summary="Change a share")
def change_share(request: HttpRequest, response: HttpResponse, ref: str, share_id: int, body: ShareChanges) -> Any:
    """Change a share's level or expiration date."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    share = get_object_or_404(_active_shares(connection), pk=share_id)
    roles.require(permissions.can_share(key.owner, connection), action="Ask its owner or an IT admin to share it.")
    with etags.lock_matching(request, share, COLUMNS, part_of=connection) as current:
        level = body.level or current.level
        until = body.until if "until" in body.model_fields_set else current.until
        share = shares.share(
            connection,
            person=current.person,
            team=current.team,
            level=level,
            until=until,
            actor=key.owner,
            now=timezone.now(),
        )
    return etags.tag(response, share, COLUMNS)


@router.delete(
    "/connections/{ref}/shares/{int:share_id}", response={204: None} | problems.responses(412), summary="Remove a share"
)
def end_share(request: HttpRequest, ref: str, share_id: int) -> Any:
    """Remove a share. This takes effect immediately."""
    key, connection = authentication.key_and_connection(request, Scope.CONNECTIONS_WRITE, ref)
    share = get_object_or_404(_active_shares(connection), pk=share_id)
    with etags.lock_matching(request, share, COLUMNS, part_of=connection) as current:
        shares.end_share(current, actor=key.owner, now=timezone.now())
    return Status(204, None)


def _active_shares(connection: Connection) -> QuerySet[Share]:
    return Share.objects.active().filter(connection=connection).select_related("person", "team")
