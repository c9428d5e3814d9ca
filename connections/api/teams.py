"""Teams, their members, and people, over the API."""

from __future__ import annotations

from typing import Annotated, Any

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import etags, key_scoping, problems
from connections.api.field_types import ChangeSchema, Label, Name, RequestSchema, Text, listed
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, matching, page
from connections.models import Team, TeamMember, User
from connections.services.sharing import teams

router = Router(tags=["Teams and people"])
COLUMNS = ("name", "entra_group")
Kind = Annotated[User.Kind, listed(User.Kind)]


class PersonOut(Schema):
    """Somebody who uses the portal."""

    id: int
    name: str
    username: str = Field(description="The name they sign in with.")
    kind: Kind = Field(description="A person, or a service account that only its API keys act as.")


class PersonPage(Page):
    """One page of people."""

    items: list[PersonOut]


class TeamOut(Schema):
    """A group of people that connections are shared with."""

    id: int
    name: str
    entra_group: str = Field(description="Object ID of the Entra group it follows; empty: its members are put in here.")
    member_count: int
    link: str


class TeamPage(Page):
    """One page of teams."""

    items: list[TeamOut]


class Found(PageQuery):
    """Which of them."""

    q: Text = Field("", max_length=100, description="Part of the name.")


class TeamIn(RequestSchema):
    """A team to be made."""

    name: Name
    entra_group: Label = Field("", description="Object ID of an Entra group whose members come and go by themselves.")


class TeamChanges(ChangeSchema):
    """What changes about a team."""

    name: Name | None = None
    entra_group: Label | None = Field(None, description="An empty text ends the following; members stay.")


# --- People ---------------------------------------------------------------------------------------


@router.get("/people", response={200: PersonPage} | problems.responses(), summary="List people")
def list_people(request: HttpRequest, wanted: Query[Found]) -> Any:
    """Everybody and everything a connection can be shared with: people, and service accounts."""
    key_scoping.unlimited(request, Scope.ADMIN_READ)
    found = querysets.accounts().filter(matching(wanted.q, "first_name", "last_name", "username"))
    return page(found, wanted, describe=describe_person)


# --- Teams ----------------------------------------------------------------------------------------


@router.get("/teams", response={200: TeamPage} | problems.responses(), summary="List teams")
def list_teams(request: HttpRequest, wanted: Query[Found]) -> Any:
    """Teams in the order of their names."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    teams = querysets.visible_teams(key.owner).filter(matching(wanted.q, "name"))
    return page(_counted(teams), wanted, describe=describe, order=("name", "pk"))


@router.post("/teams", response={201: TeamOut} | problems.responses(*problems.CREATING), summary="Make a team")
@idempotent(Scope.ADMIN_WRITE)
def add_team(request: HttpRequest, response: HttpResponse, entry: TeamIn) -> Any:
    """A team without members, or one that follows an Entra group."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    made = teams.add(**entry.model_dump(), actor=key.owner)
    with_location(response, "read_team", team_id=made.pk)
    return _told(response, made, 201)


@router.get("/teams/{int:team_id}", response={200: TeamOut} | problems.responses(404), summary="Read a team")
def read_team(request: HttpRequest, response: HttpResponse, team_id: int) -> Any:
    """One team."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return _told(response, get_object_or_404(querysets.visible_teams(key.owner), pk=team_id))


@router.patch(
    "/teams/{int:team_id}", response={200: TeamOut} | problems.responses(*problems.CHANGING), summary="Change a team"
)
def change_team(request: HttpRequest, response: HttpResponse, team_id: int, entry: TeamChanges) -> Any:
    """Rename it, or let it follow another group."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    found = get_object_or_404(querysets.visible_teams(key.owner), pk=team_id)
    with etags.lock_matching(request, found, COLUMNS) as team:
        values = entry.over(name=team.name, entra_group=team.entra_group)
        teams.change(team, **values, actor=key.owner)
    return _told(response, team)


@router.delete(
    "/teams/{int:team_id}", response={204: None} | problems.responses(*problems.REMOVING), summary="Remove a team"
)
def remove_team(request: HttpRequest, team_id: int) -> Any:
    """Everything that is shared with it is no longer."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    found = get_object_or_404(querysets.visible_teams(key.owner), pk=team_id)
    with etags.lock_matching(request, found, COLUMNS) as team:
        teams.remove(team, actor=key.owner)
    return Status(204, None)


# --- Members --------------------------------------------------------------------------------------


@router.get(
    "/teams/{int:team_id}/members",
    response={200: PersonPage} | problems.responses(404),
    summary="List a team's members",
)
def list_members(request: HttpRequest, team_id: int, wanted: Query[PageQuery]) -> Any:
    """Everybody who is in the team."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    team = get_object_or_404(querysets.visible_teams(key.owner), pk=team_id)
    return page(team.members.order_by(), wanted, describe=describe_person)


@router.put(
    "/teams/{int:team_id}/members/{int:user_id}",
    response={200: PersonOut} | problems.responses(404),
    summary="Put somebody into a team",
)
def add_member(request: HttpRequest, team_id: int, user_id: int) -> Any:
    """Doing it twice is harmless."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    team = get_object_or_404(querysets.visible_teams(key.owner), pk=team_id)
    roles.require(permissions.can_manage_teams(key.owner), action="Ask an IT admin.")
    user = get_object_or_404(querysets.people(), pk=user_id)
    teams.add_member(team, user, actor=key.owner)
    return describe_person(user)


@router.delete(
    "/teams/{int:team_id}/members/{int:user_id}",
    response={204: None} | problems.responses(404),
    summary="Take somebody out of a team",
)
def remove_member(request: HttpRequest, team_id: int, user_id: int) -> Any:
    """What is shared with the team is out of their reach at once. Doing it twice is harmless."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    team = get_object_or_404(querysets.visible_teams(key.owner), pk=team_id)
    roles.require(permissions.can_manage_teams(key.owner), action="Ask an IT admin.")
    teams.remove_member(team, get_object_or_404(User, pk=user_id), actor=key.owner)
    return Status(204, None)


# --- Parts ----------------------------------------------------------------------------------------


def _counted(found: Any) -> Any:
    return found.annotate(member_count=Count("memberships"))


def _told(response: HttpResponse, team: Team, status: int = 200) -> Status[dict[str, Any]]:
    etags.tag(response, team, COLUMNS)
    team.member_count = TeamMember.objects.filter(team=team).count()  # type: ignore[attr-defined]
    return Status(status, describe(team))


def describe(team: Team) -> dict[str, Any]:
    """A team, with ``member_count`` counted, as TeamOut."""
    return {
        "id": team.pk,
        "name": team.name,
        "entra_group": team.entra_group,
        "member_count": team.member_count,  # type: ignore[attr-defined]
        "link": page_link("team", team.pk),
    }


def describe_person(user: User) -> dict[str, Any]:
    """Somebody as PersonOut."""
    return {"id": user.pk, "name": str(user), "username": user.username, "kind": user.kind}
