from typing import Annotated, Any

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import etags, key_scoping, problems
from connections.api.field_types import ChangeSchema, Label, Name, RequestSchema, Text, listed
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import Team, User
from connections.services.sharing import teams

router = Router(tags=["Teams and people"])
COLUMNS = ("name", "entra_group")
Kind = Annotated[User.Kind, listed(User.Kind)]


class PersonOut(Schema):
    """A person or service account that uses the portal."""

    id: int
    name: str
    username: str = Field(description="The user name.")
    kind: Kind = Field(description="A person, or a service account for API keys.")

    @staticmethod
    def resolve_name(user: User) -> str:
        return str(user)


class TeamOut(Schema):
    """A team with which connections can be shared."""

    id: int
    name: str
    entra_group: str = Field(description="Object ID of its Entra group. Empty: members are added in the portal.")
    member_count: int
    link: Annotated[str, link_to("team")] = Field(validation_alias="pk")


class PersonQuery(PageQuery):
    q: Annotated[Text, FilterLookup(["first_name__icontains", "last_name__icontains", "username__icontains"])] = Field(
        "", max_length=100, description="Part of the name."
    )


class TeamQuery(PageQuery):
    q: Annotated[Text, FilterLookup("name__icontains")] = Field("", max_length=100, description="Part of the name.")


class TeamIn(RequestSchema):
    name: Name
    entra_group: Label = Field("", description="Object ID of an Entra group to synchronise the members with.")


class TeamChanges(ChangeSchema):
    name: Name | None = None
    entra_group: Label | None = Field(None, description="An empty text stops the synchronisation. Members stay.")


@router.get("/people", response=page_of(PersonOut), summary="List people")
def list_people(request: HttpRequest, query: Query[PersonQuery]) -> Any:
    """All people and service accounts with whom a connection can be shared."""
    key_scoping.unlimited(request, Scope.ADMIN_READ)
    return page(querysets.accounts(), query)


@router.get("/teams", response=page_of(TeamOut), summary="List teams")
def list_teams(request: HttpRequest, query: Query[TeamQuery]) -> Any:
    """Teams, ordered by name."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return page(
        querysets.visible_teams(key.owner).annotate(member_count=Count("memberships")), query, order=("name", "pk")
    )


@router.post("/teams", response={201: TeamOut}, summary="Create a team")
@idempotent(Scope.ADMIN_WRITE)
def add_team(request: HttpRequest, response: HttpResponse, body: TeamIn) -> Any:
    """Create an empty team, or one that is synchronised with an Entra group."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    team = teams.add(**body.model_dump(), actor=key.owner)
    with_location(response, "read_team", team_id=team.pk)
    return _tagged(response, team)


@router.get("/teams/{int:team_id}", response=TeamOut, summary="Get a team")
def read_team(request: HttpRequest, response: HttpResponse, team_id: int) -> Any:
    """One team."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    return _tagged(response, get_object_or_404(querysets.visible_teams(key.owner), pk=team_id))


@router.patch("/teams/{int:team_id}", response=TeamOut, summary="Change a team")
def change_team(request: HttpRequest, response: HttpResponse, team_id: int, body: TeamChanges) -> Any:
    """Rename a team, or change its Entra group."""
    key, team = key_scoping.key_and_object(request, querysets.visible_teams, team_id, Scope.ADMIN_WRITE)
    with etags.lock_matching(request, team, COLUMNS) as current:
        values = body.over(name=current.name, entra_group=current.entra_group)
        teams.change(current, **values, actor=key.owner)
    return _tagged(response, current)


@router.delete("/teams/{int:team_id}", response={204: None} | problems.responses(409, 412), summary="Remove a team")
def remove_team(request: HttpRequest, team_id: int) -> Any:
    """Delete a team and all shares with it."""
    key, team = key_scoping.key_and_object(request, querysets.visible_teams, team_id, Scope.ADMIN_WRITE)
    with etags.lock_matching(request, team, COLUMNS) as current:
        teams.remove(current, actor=key.owner)
    return Status(204, None)


@router.get("/teams/{int:team_id}/members", response=page_of(PersonOut), summary="List a team's members")
def list_members(request: HttpRequest, team_id: int, query: Query[PageQuery]) -> Any:
    """All members of the team."""
    _, team = key_scoping.key_and_object(request, querysets.visible_teams, team_id, Scope.ADMIN_READ)
    return page(team.members.order_by(), query)


@router.put("/teams/{int:team_id}/members/{int:user_id}", response=PersonOut, summary="Add a team member")
def add_member(request: HttpRequest, team_id: int, user_id: int) -> Any:
    """Add a person to the team. Safe to repeat."""
    key, team = key_scoping.key_and_object(request, querysets.visible_teams, team_id, Scope.ADMIN_WRITE)
    roles.require(permissions.can_manage_teams(key.owner), action="Ask an IT admin.")
    user = get_object_or_404(querysets.people(), pk=user_id)
    teams.add_member(team, user, actor=key.owner)
    return user


@router.delete("/teams/{int:team_id}/members/{int:user_id}", response={204: None}, summary="Remove a team member")
def remove_member(request: HttpRequest, team_id: int, user_id: int) -> None:
    """Remove a person from the team. They immediately lose access to its shared connections. Safe to repeat."""
    key, team = key_scoping.key_and_object(request, querysets.visible_teams, team_id, Scope.ADMIN_WRITE)
    roles.require(permissions.can_manage_teams(key.owner), action="Ask an IT admin.")
    teams.remove_member(team, get_object_or_404(User, pk=user_id), actor=key.owner)


def _tagged(response: HttpResponse, team: Team) -> Team:
    etags.tag(response, team, COLUMNS)
    team.member_count = team.memberships.count()  # type: ignore[attr-defined]
    return team
