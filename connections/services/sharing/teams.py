from collections.abc import Collection
from datetime import datetime

from django.db import transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import AuditEvent, Share, Team, TeamMember, User
from connections.models.audit import AuditAction
from connections.services.notifications.owner_messages import tell_owner
from connections.services.policy import four_eyes, self_access
from connections.services.sharing import history, shares
from connections.uniqueness import atomic_or


def add(name: str, *, entra_group: str = "", actor: User) -> Team:
    """Create a team. Raises NotAllowed or AlreadyExists."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    with atomic_or(lambda: _duplicate(name, entra_group)):
        team = Team.objects.create(name=name, entra_group=entra_group, created_by=actor)
        facts = {"entra_group": entra_group} if entra_group else {}
        audit.record(AuditAction.TEAM_ADDED, team, actor=actor, changes=facts)
    return team


def change(team: Team, *, name: str, entra_group: str, actor: User) -> None:
    """Change the name and the Entra group.

    Raises NotAllowed, AlreadyExists, or SecondPersonNeeded if the group changes and other people share connections with
    the team.
    """
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    changes = audit.changed_fields(team, {"name": name, "entra_group": entra_group})
    if not changes:
        return
    with atomic_or(lambda: _duplicate(name, entra_group)):
        Team.objects.select_for_update(no_key=True).filter(pk=team.pk).first()
        change = self_access.of_group(team, entra_group, actor=actor)
        four_eyes.require(change, actor=actor, now=timezone.now())
        Team.objects.filter(pk=team.pk).update(name=name, entra_group=entra_group)
        team.name, team.entra_group = name, entra_group
        event = audit.record(AuditAction.TEAM_CHANGED, team, actor=actor, changes=changes)
        if "entra_group" in changes:
            _tell_owners(team, event, "changed the Entra group of", actor=actor, now=timezone.now())


def remove(team: Team, *, actor: User, now: datetime | None = None) -> None:
    """Delete a team and end the shares with it. Raises NotAllowed."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    now = now or timezone.now()
    with transaction.atomic():
        # A concurrent share with this team waits here and then fails. Otherwise, it would disappear without an audit
        # event.
        Team.objects.select_for_update().filter(pk=team.pk).first()
        shares.end_all_of(team=team, actor=actor, now=now)
        history.team_removed(team, actor=actor, now=now)
        names = [f"{user} <{user.username}>" for user in team.members.all()]
        ids = team.memberships.values_list("user_id", flat=True)
        facts = {"members": audit.join_values(names), "member_ids": audit.join_values(ids)}
        audit.record(AuditAction.TEAM_REMOVED, team, actor=actor, at=now, changes=facts)
        team.delete()


def add_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Add a member, and email the owners of connections that are shared with the team.

    ``actor`` is None if the member comes from the team's Entra group. Raises NotAllowed, InvalidInput if the team has
    an Entra group, or SecondPersonNeeded if the actor would get access by it.
    """
    _require_can_change(team, actor)
    now = now or timezone.now()
    with transaction.atomic():
        # Lock the team, so that a connection that is being shared with it at this moment is considered.
        Team.objects.select_for_update(no_key=True).filter(pk=team.pk).first()
        if actor is not None and not TeamMember.objects.filter(team=team, user=user).exists():
            four_eyes.require(self_access.of_member(team, user, actor=actor), actor=actor, now=now)
        _, is_new = TeamMember.objects.get_or_create(team=team, user=user)
        if is_new:
            history.member_joined(team, user, actor=actor, now=now)
            event = audit.record(AuditAction.TEAM_MEMBER_ADDED, team, actor=actor, at=now, changes=_member(user))
            what = f"added {user} to" if actor is not None else "joined, through its Entra group,"
            _tell_owners(team, event, what, actor=actor or user, now=now, is_alarm=actor is not None)


def remove_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Remove a person from the team. Raises NotAllowed, or InvalidInput if the team has an Entra group."""
    _require_can_change(team, actor)
    with transaction.atomic():
        _remove_member(team, user, actor, now or timezone.now())


def remove_from_all(user: User, *, actor: User | None, now: datetime) -> None:
    for team in Team.objects.filter(members=user):
        _remove_member(team, user, actor, now)


def sync_groups(user: User, groups: Collection[str]) -> None:
    """Make the person a member of exactly those teams with Entra groups whose group is in ``groups``."""
    following = Team.objects.exclude(entra_group="")
    for team in following.filter(entra_group__in=groups):
        add_member(team, user, actor=None)
    for team in following.exclude(entra_group__in=groups).filter(members=user):
        remove_member(team, user, actor=None)


def members_can_be_changed(team: Team) -> bool:
    return not team.entra_group


def _require_can_change(team: Team, actor: User | None) -> None:
    if actor is None:
        return
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    if not members_can_be_changed(team):
        raise InvalidInput(
            f"The members of {team} are synchronised with a directory group.",
            action="Change the group in Entra. Changes apply at each member's next sign-in.",
        )


def _remove_member(team: Team, user: User, actor: User | None, now: datetime) -> None:
    deleted, _ = TeamMember.objects.filter(team=team, user=user).delete()
    if deleted:
        history.member_left(team, user, actor=actor, now=now)
        audit.record(AuditAction.TEAM_MEMBER_REMOVED, team, actor=actor, at=now, changes=_member(user))


def _tell_owners(
    team: Team, event: AuditEvent, what: str, *, actor: User, now: datetime, is_alarm: bool = True
) -> None:
    """Email the owners of connections that are shared with the team about a change of who can use them."""
    for share in Share.objects.active(now).filter(team=team).select_related("connection__owner__responsible"):
        sentence = f"{what} the team {team}, which can use {share.connection}"
        tell_owner(share.connection, event, sentence, actor=actor, now=now, is_alarm=is_alarm)


def _member(user: User) -> dict[str, object]:
    return {"member": f"{user} <{user.username}>", "member_id": user.pk}


def _duplicate(name: str, entra_group: str) -> AlreadyExists:
    if entra_group and Team.objects.filter(entra_group=entra_group).exclude(name=name).exists():
        return AlreadyExists("Another team already uses this group.", field="entra_group")
    return AlreadyExists(f"A team named “{name}” already exists.", action="Choose another name.", field="name")
