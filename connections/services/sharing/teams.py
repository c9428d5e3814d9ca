"""Teams: made by hand, or following an Entra group as its members sign in."""

from __future__ import annotations

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
    """Make a team. Raises NotAllowed, AlreadyExists."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    try:
        with transaction.atomic():
            team = Team.objects.create(name=name, entra_group=entra_group, created_by=actor)
            audit.record(
                AuditAction.TEAM_ADDED, team, actor=actor, changes={"entra_group": entra_group} if entra_group else {}
            )
    except IntegrityError as taken:
        raise _duplicate(name, entra_group) from taken
    return team


def change(team: Team, *, name: str, entra_group: str, actor: User) -> None:
    """Rename a team, or let it follow another group. Raises NotAllowed, AlreadyExists."""
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
    """Remove a team; everything shared with it is no longer. Raises NotAllowed."""
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    now = now or timezone.now()
    with transaction.atomic():
        # What is about to be shared with it waits, and then fails: it would go with the team, and nothing would say so.
        Team.objects.select_for_update().filter(pk=team.pk).first()
        shares.end_all_of(team=team, actor=actor, now=now)
        history.team_removed(team, actor=actor, now=now)
        facts = {"members": audit.join_values(_names(team)), "member_ids": audit.join_values(_ids(team))}
        audit.record(AuditAction.TEAM_REMOVED, team, actor=actor, at=now, changes=facts)
        team.delete()


def add_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Put somebody into the team; ``actor`` None: their group did. Doing it twice is harmless.

    Raises NotAllowed, InvalidInput if the team follows a group.
    """
    _require_by_hand(team, actor)
    now = now or timezone.now()
    with transaction.atomic():
        _, is_new = TeamMember.objects.get_or_create(team=team, user=user)
        if is_new:
            history.member_joined(team, user, actor=actor, now=now)
            audit.record(AuditAction.TEAM_MEMBER_ADDED, team, actor=actor, at=now, changes=_member(user))


def remove_member(team: Team, user: User, *, actor: User | None, now: datetime | None = None) -> None:
    """Take somebody out of the team; what was shared with it is out of their reach at once.

    ``actor`` None: their group did. Raises NotAllowed, InvalidInput if the team follows a group.
    """
    _require_by_hand(team, actor)
    with transaction.atomic():
        _take_out(team, user, actor, now or timezone.now())


def remove_from_all(user: User, *, actor: User | None, now: datetime) -> None:
    """Take somebody who is about to be removed out of every team, inside the caller's transaction."""
    for team in Team.objects.filter(members=user):
        _take_out(team, user, actor, now)


def sync_groups(user: User, groups: Collection[str]) -> None:
    """At a Microsoft sign-in: put the person into exactly those following teams whose Entra group they are in."""
    following = Team.objects.exclude(entra_group="")
    for team in following.filter(entra_group__in=groups):
        add_member(team, user, actor=None)
    for team in following.exclude(entra_group__in=groups).filter(members=user):
        remove_member(team, user, actor=None)


def _require_by_hand(team: Team, actor: User | None) -> None:
    if actor is None:
        return
    roles.require(permissions.can_manage_teams(actor), action="Ask an IT admin.")
    if not members_can_be_changed(team):
        raise InvalidInput(
            f"{team} follows a group of the directory: who is in it comes and goes with that.",
            action="Change the group in Entra; it counts from the next sign-in.",
        )


def _take_out(team: Team, user: User, actor: User | None, now: datetime) -> None:
    gone, _ = TeamMember.objects.filter(team=team, user=user).delete()
    if gone:
        history.member_left(team, user, actor=actor, now=now)
        audit.record(AuditAction.TEAM_MEMBER_REMOVED, team, actor=actor, at=now, changes=_member(user))


def _member(user: User) -> dict[str, object]:
    return {"member": f"{user} <{user.username}>", "member_id": user.pk}


def _names(team: Team) -> list[str]:
    return [f"{user} <{user.username}>" for user in team.members.all()]


def _ids(team: Team) -> list[int]:
    return list(team.memberships.values_list("user_id", flat=True))


def _duplicate(name: str, entra_group: str) -> AlreadyExists:
    if entra_group and Team.objects.filter(entra_group=entra_group).exclude(name=name).exists():
        return AlreadyExists("Another team follows this group already.", field="entra_group")
    return AlreadyExists(f"There is already a team called “{name}”.", action="Choose another name.", field="name")


def members_can_be_changed(team: Team) -> bool:
    """Whether members are put in by hand; those of a following team come and go with their group."""
    return not team.entra_group
