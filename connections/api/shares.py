"""Shares of a connection over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import authentication, etags, problems
from connections.api.field_types import Moment, Number, RequestSchema, listed
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, page
from connections.errors import InvalidInput
from connections.models import Connection, Share
from connections.services.sharing import shares

router = Router(tags=["Sharing"])
Level = Annotated[Share.Level, listed(Share.Level)]
COLUMNS = ("level", "until", "ended_at")


class ShareOut(Schema):
    """Who else uses or manages a connection."""

    id: int
    person_id: int | None = Field(description="The person it is shared with; null for a team.")
    team_id: int | None
    name: str = Field(description="Of the person or the team.")
    level: Level = Field(description="use: fetch tokens. manage: also sign in again and share.")
    until: datetime | None = Field(description="When it ends by itself.")
    created_at: datetime


class SharePage(Page):
    """One page of shares."""

    items: list[ShareOut]


class ShareIn(RequestSchema):
    """A share to be made: with a person, or with a team."""

    person_id: Number | None = Field(None, examples=[7])
    team_id: Number | None = None
    level: Level = Field(Share.Level.USE, examples=["use"])
    until: Moment | None = Field(None, description="When it ends by itself, within three years; null: never.")


class ShareChanges(RequestSchema):
    """What changes about a share; what is not sent stays. ``until`` null takes the end away."""

    level: Level | None = Field(None, examples=["manage"])
    until: Moment | None = None


@router.get(
    "/connections/{ref}/shares", response={200: SharePage} | problems.responses(404, 409), summary="List shares"
)
def list_shares(request: HttpRequest, ref: str, wanted: Query[PageQuery]) -> Any:
    """The shares that count just now."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_READ)
    return page(_active(authentication.find_connection(key, ref)), wanted, describe=describe)


@router.post(
    "/connections/{ref}/shares",
    response={201: ShareOut} | problems.responses(404, *problems.CREATING),
    summary="Share a connection",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def add_share(request: HttpRequest, response: HttpResponse, ref: str, entry: ShareIn) -> Any:
    """Sharing again with the same person or team changes level and end."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    roles.require(permissions.can_share(key.owner, found), action="Ask its owner or an IT admin to share it.")
    if (entry.person_id is None) == (entry.team_id is None):
        raise InvalidInput("Send either person_id or team_id.", field="person_id")
    people, teams = querysets.accounts(), querysets.visible_teams(key.owner)
    made = shares.share(
        found,
        person=get_object_or_404(people, pk=entry.person_id) if entry.person_id is not None else None,
        team=get_object_or_404(teams, pk=entry.team_id) if entry.team_id is not None else None,
        level=entry.level,
        until=entry.until,
        actor=key.owner,
        now=timezone.now(),
    )
    etags.tag(response, made, COLUMNS)
    return Status(201, describe(made))


@router.patch(
    "/connections/{ref}/shares/{int:share_id}",
    response={200: ShareOut} | problems.responses(*problems.CHANGING),
    summary="Change a share",
)
def change_share(request: HttpRequest, response: HttpResponse, ref: str, share_id: int, entry: ShareChanges) -> Any:
    """Change what it allows, or when it ends."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    share = get_object_or_404(_active(found), pk=share_id)
    roles.require(permissions.can_share(key.owner, found), action="Ask its owner or an IT admin to share it.")
    with etags.lock_matching(request, share, COLUMNS, part_of=found) as current:
        level = entry.level or current.level
        until = entry.until if "until" in entry.model_fields_set else current.until
        whom = {"person": current.person, "team": current.team}
        made = shares.share(found, **whom, level=level, until=until, actor=key.owner, now=timezone.now())
    etags.tag(response, made, COLUMNS)
    return describe(made)


@router.delete(
    "/connections/{ref}/shares/{int:share_id}",
    response={204: None} | problems.responses(*problems.REMOVING),
    summary="End a share",
)
def end_share(request: HttpRequest, ref: str, share_id: int) -> Any:
    """It no longer counts from this moment on."""
    key = authentication.require_scope(request, Scope.CONNECTIONS_WRITE)
    found = authentication.find_connection(key, ref)
    share = get_object_or_404(_active(found), pk=share_id)
    with etags.lock_matching(request, share, COLUMNS, part_of=found) as current:
        shares.end_share(current, actor=key.owner, now=timezone.now())
    return Status(204, None)


def _active(connection: Connection) -> Any:
    return Share.objects.active().filter(connection=connection).select_related("person", "team")


def describe(share: Share) -> dict[str, Any]:
    """A share as ShareOut."""
    return {
        "id": share.pk,
        "person_id": share.person_id,
        "team_id": share.team_id,
        "name": str(share.person or share.team),
        "level": share.level,
        "until": share.until,
        "created_at": share.created_at,
    }
