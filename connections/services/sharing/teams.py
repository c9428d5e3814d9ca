from collections.abc import Collection
from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils import timezone

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import Team, TeamMember, User
from connections.models.audit import AuditAction
from connections.services.sharing import history, shares


def add(name: str, *, entra_group: str = "", actor: User) -> Team:
    """Raises NotAllowed or AlreadyExists."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    try:
        with transaction.atomic():
            team = Team.objects.create(name=name, entra_group=entra_group, created_by=actor)
            facts = {"entra_group": entra_group} if entra_group else {}
            audit.record(AuditAction.TEAM_ADDED, team, actor=actor, changes=facts)
    except IntegrityError as taken:
        raise _duplicate(name, entra_group) from taken
    return team


def change(team: Team, *, name: str, entra_group: str, actor: User) -> None:
    """Raises NotAllowed or AlreadyExists."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    changes = audit.changed_fields(team, {"name": name, "entra_group": entra_group})
    if not changes:
        return
    try:
        with transaction.atomic():
            Team.objects.filter(pk=team.pk).update(name=name, entra_group=entra_group)
            team.name, team.entra_group = name, entra_group
            audit.record(AuditAction.TEAM_CHANGED, team, actor=actor, changes=changes)
    except IntegrityError as taken:
        raise _duplicate(name, entra_group) from taken


def remove(team: Team, *, actor: User, now: datetime | None = None) -> None:
    """Remove a team and end everything shared with it. Raises NotAllowed."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    now = now or timezone.now()
    with transaction.atomic():
        # A concurrent share with this team waits here and then fails; otherwise it would vanish without an audit event.
        Team.objects.select_for_update().filter(pk=team.pk).first()
        shares.end_all_of(team=team, actor=actor, now=now)
        history.team_removed(team, actor=actor, now=now)
        names = [f"{user} <{user.username}>" for user in team.members.all()]
        ids = team.memberships.values_list("user_id", flat=True)
        facts = {"members": audit.join_values(names), "member_ids": audit.join_values(ids)}
        audit.record(AuditAction.TEAM_REMOVED, team, actor=actor, at=now, changes=facts)
        team.delete()


def add_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Raises NotAllowed, or InvalidInput if the team follows an Entra group. ``actor`` is None when syncing groups."""
    _require_can_change(team, actor)
    now = now or timezone.now()
    with transaction.atomic():
        _, is_new = TeamMember.objects.get_or_create(team=team, user=user)
        if is_new:
            history.member_joined(team, user, actor=actor, now=now)
            audit.record(AuditAction.TEAM_MEMBER_ADDED, team, actor=actor, at=now, changes=_member(user))


def remove_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Raises like add_member()."""
    _require_can_change(team, actor)
    with transaction.atomic():
        _remove_member(team, user, actor, now or timezone.now())


def remove_from_all(user: User, *, actor: User | None, now: datetime) -> None:
    for team in Team.objects.filter(members=user):
        _remove_member(team, user, actor, now)


def sync_groups(user: User, groups: Collection[str]) -> None:
    """At a Microsoft sign-in, make the person a member of exactly those teams whose Entra group they are in."""
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
            f"{team} follows a group of the directory: who is in it comes and goes with that.",
            action="Change the group in Entra; it counts from the next sign-in.",
        )


def _remove_member(team: Team, user: User, actor: User | None, now: datetime) -> None:
    deleted, _ = TeamMember.objects.filter(team=team, user=user).delete()
    if deleted:
        history.member_left(team, user, actor=actor, now=now)
        audit.record(AuditAction.TEAM_MEMBER_REMOVED, team, actor=actor, at=now, changes=_member(user))


def _member(user: User) -> dict[str, object]:
    return {"member": f"{user} <{user.username}>", "member_id": user.pk}


def _duplicate(name: str, entra_group: str) -> AlreadyExists:
    if entra_group and Team.objects.filter(entra_group=entra_group).exclude(name=name).exists():
        return AlreadyExists("Another team follows this group already.", field="entra_group")
    return AlreadyExists(f"There is already a team called “{name}”.", action="Choose another name.", field="name")
