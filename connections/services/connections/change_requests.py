"""Carry out a change that a second person has approved (services/policy/four_eyes.py)."""

from datetime import datetime
from typing import Any

from connections.access import permissions, roles
from connections.errors import Conflict, InvalidInput
from connections.models import AppRegistration, ChangeRequest, Connection, Team, User
from connections.services.governance import policy
from connections.services.people import ownership_transfer
from connections.services.policy import rules as policy_rules
from connections.services.sharing import shares, teams

Kind = ChangeRequest.Kind
# A key is shown only once, to the person who creates it, so it must be created on its own page.
ON_ITS_PAGE = (Kind.API_KEY,)


def carry_out(request: ChangeRequest, *, actor: User, now: datetime) -> None:
    """Make the approved change for its requester, which uses up the approval.

    The change is checked as usual. Raises NotAllowed for anybody else, Conflict if the request is not approved or
    refers to an object that no longer exists, and the errors of the change itself.
    """
    roles.require(permissions.can_withdraw_change(actor, request), action="Only the requester can make this change.")
    if request.state != ChangeRequest.State.APPROVED:
        raise Conflict("This request is not approved, or it was used already.", action="Ask for approval again.")
    values: dict[str, Any] = request.proposal
    try:
        _carry_out(Kind(request.kind), values, actor, now)
    except (AppRegistration.DoesNotExist, Connection.DoesNotExist, Team.DoesNotExist, User.DoesNotExist) as gone:
        raise Conflict("The object of this request no longer exists.", action="Withdraw the request.") from gone


def _carry_out(kind: Kind, values: dict[str, Any], actor: User, now: datetime) -> None:
    if kind == Kind.SHARE:
        shares.share(
            _connection(values),
            person=User.objects.get(pk=values["person"]) if values["person"] else None,
            team=Team.objects.get(pk=values["team"]) if values["team"] else None,
            level=values["level"],
            until=datetime.fromisoformat(values["until"]) if values["until"] else None,
            actor=actor,
            now=now,
        )
    elif kind == Kind.TRANSFER:
        new_owner = User.objects.get(pk=values["new_owner"])
        ownership_transfer.transfer(_connection(values), new_owner, keep_grant=True, actor=actor, now=now)
    elif kind == Kind.TEAM_MEMBER:
        teams.add_member(Team.objects.get(pk=values["team"]), User.objects.get(pk=values["user"]), actor=actor, now=now)
    elif kind == Kind.TEAM_GROUP:
        team = Team.objects.get(pk=values["team"])
        teams.change(team, name=team.name, entra_group=values["entra_group"], actor=actor)
    elif kind == Kind.POLICY:
        number = values["app_registration"]
        app = AppRegistration.objects.get(pk=number) if number else None
        rules = policy_rules.from_database(values["after"])
        policy.change(app, rules, actor=actor, now=now)
    else:
        raise InvalidInput("This change is made on its own page.", action="Open the page and make the change there.")


def _connection(values: dict[str, Any]) -> Connection:
    return Connection.objects.with_related().get(pk=values["connection"])
