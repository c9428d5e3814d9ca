"""People: admitted at their first Microsoft sign-in, following their directory at every later one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import transaction

from connections import audit
from connections.errors import StillInUse
from connections.models import AuditEvent, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.services import access_history, sharing, teams


def admit(*, claims: dict[str, Any]) -> User:
    """Make an account for somebody who signed in with Microsoft for the first time.

    It is never joined to an account that exists: names and addresses can be chosen freely in other directories,
    only (tid, oid) proves who somebody is.
    """
    wanted = str(claims.get("preferred_username") or claims["oid"])[:140]
    with transaction.atomic():
        taken = User.objects.filter(username__iexact=wanted).exists()
        user = User(username=f"{wanted} ({claims['oid'][:8]})" if taken else wanted)
        user.set_unusable_password()
        user.save()
        audit.record("account.admitted", user, actor=user, changes={"method": "microsoft"})
    return user


def follow_directory(user: User, *, claims: dict[str, Any]) -> None:
    """Take over name, address and roles as the directory has them now. Doing it twice changes nothing."""
    name = str(claims.get("name") or "")
    values = {
        "first_name": name.partition(" ")[0][:150],
        "last_name": name.partition(" ")[2][:150],
        "email": str(claims.get("email") or claims.get("preferred_username") or "")[:254],
    }
    with transaction.atomic():
        changes = audit.changed(user, values)
        if changes:
            User.objects.filter(pk=user.pk).update(**values)
            for field, value in values.items():
                setattr(user, field, value)
            audit.record("account.updated", user, actor=user, changes=changes)
        _follow_roles(user, claims)
        teams.follow_groups(user, [str(group) for group in _listed(claims.get("groups"))])
        signed_in(user, actor=user, method="microsoft")


def remove(user: User, *, actor: User, now: datetime) -> None:
    """Remove an account, with its shares, memberships and API keys. What it could use stays in the access history.

    Raises StillInUse while it owns connections: they would lose their owner.
    """
    owned = list(user.connections.values_list("name", flat=True)[:4])
    if owned:
        raise StillInUse(
            f"{user} still owns connections: {audit.listed(owned[:3])}{'…' if len(owned) > 3 else ''}.",
            action="Hand them over or remove them first.",
        )
    with transaction.atomic():
        sharing.end_all_of(person=user, actor=actor, now=now)
        teams.leave_all(user, actor=actor, now=now)
        access_history.person_removed(user, actor=actor, now=now)
        roles = sorted(user.groups.values_list("name", flat=True))
        facts = {"roles": roles, "superuser": user.is_superuser, "active": user.is_active}
        audit.record("account.removed", user, actor=actor, at=now, changes=facts)
        user.delete()


def _follow_roles(user: User, claims: dict[str, Any]) -> None:
    held = {str(value) for key in ("roles", "groups") for value in _listed(claims.get(key))}
    login = settings.LOGIN_MICROSOFT
    before = set(user.groups.values_list("name", flat=True))
    after = set(before)
    for group, values in ((IT_ADMINS, login["admins"]), (AUDITORS, login["auditors"])):
        after = after | {group} if held & set(values) else after - {group}
    if after != before:
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in sorted(after)])
        audit.record("account.roles_changed", user, actor=None, changes={"roles": [sorted(before), sorted(after)]})


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def signed_in(user: User, *, actor: User, method: str) -> None:
    """Record that somebody signed in. ``method`` is ``password`` or ``microsoft``."""
    audit.record("account.signed_in", user, actor=actor, changes={"method": method})


def signed_out(user: User, *, actor: User) -> None:
    """Record that somebody signed out."""
    audit.record("account.signed_out", user, actor=actor)


def sign_in_failed(username: str, *, reason: str) -> None:
    """Record a sign-in that failed; the name is as typed, it may be nobody's."""
    typed = User(username=username[:150] or "(unknown)")
    audit.record(
        "account.sign_in_failed",
        typed,
        actor=None,
        actor_name=typed.username,
        changes={"reason": reason},
        outcome=AuditEvent.Outcome.DENIED,
    )


def set_roles(user: User, *, admin: bool, auditor: bool, actor: User | None) -> None:
    """Give a local account its roles (demo, tests, break-glass); Microsoft accounts follow their directory."""
    wanted = [name for name, given in ((IT_ADMINS, admin), (AUDITORS, auditor)) if given]
    with transaction.atomic():
        before = sorted(user.groups.values_list("name", flat=True))
        if before == sorted(wanted):
            return
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in wanted])
        audit.record("account.roles_changed", user, actor=actor, changes={"roles": [before, sorted(wanted)]})
