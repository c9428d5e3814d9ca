"""People's accounts, created at their first Microsoft sign-in and updated from their directory at every later one."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from connections import audit
from connections.access import permissions, querysets
from connections.access import roles as access_roles
from connections.errors import InUse
from connections.models import AuditEvent, User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.audit import AuditAction
from connections.services.people import offboarding
from connections.services.sharing import history, shares, teams


def create_from_directory(*, claims: dict[str, Any]) -> User:
    """Create an account at a person's first Microsoft sign-in.

    It is never linked to an existing one: other directories can choose any name, and only (tid, oid) identifies.
    """
    username = str(claims.get("preferred_username") or claims["oid"])[:140]
    with transaction.atomic():
        if User.objects.filter(username__iexact=username).exists():
            username = f"{username} ({claims['oid'][:8]})"
        user = User(username=username)
        user.set_unusable_password()
        user.save()
        audit.record(AuditAction.ACCOUNT_ADMITTED, user, actor=user, changes={"method": "microsoft"})
    return user


def update_from_directory(user: User, *, claims: dict[str, Any]) -> None:
    """Update name, address, roles and teams from the directory's claims, and record the sign-in."""
    first_name, _, last_name = str(claims.get("name") or "").partition(" ")
    values = {
        "first_name": first_name[:150],
        "last_name": last_name[:150],
        "email": str(claims.get("email") or claims.get("preferred_username") or "")[:254],
    }
    with transaction.atomic():
        changes = audit.changed_fields(user, values)
        if changes:
            User.objects.filter(pk=user.pk).update(**values)
            for field, value in values.items():
                setattr(user, field, value)
            audit.record(AuditAction.ACCOUNT_UPDATED, user, actor=user, changes=changes)
        _follow_groups(user, claims, now=timezone.now())
        signed_in(user, actor=user, method="microsoft")


def remove(user: User, *, actor: User, now: datetime) -> None:
    """Remove an account with its shares, memberships and API keys. Raises InUse while it owns connections."""
    with transaction.atomic():
        # Locked, so that creating something that refers to the account fails instead of being undone by the deletion.
        User.objects.select_for_update().filter(pk=user.pk).first()
        require_removable(user)
        shares.end_all_of(person=user, actor=actor, now=now)
        teams.remove_from_all(user, actor=actor, now=now)
        history.person_removed(user, actor=actor, now=now)
        roles = sorted(user.groups.values_list("name", flat=True))
        changes = {"roles": roles, "superuser": user.is_superuser, "active": user.is_active}
        audit.record(AuditAction.ACCOUNT_REMOVED, user, actor=actor, at=now, changes=changes)
        user.delete()


def require_removable(user: User) -> None:
    owned = list(user.connections.values_list("name", flat=True)[:4])
    if owned:
        raise InUse(
            f"{user} still owns connections: {audit.join_values(owned[:3])}{'…' if len(owned) > 3 else ''}.",
            action="Hand them over or remove them first.",
        )


def disable_person(user: User, *, actor: User, now: datetime) -> None:
    """Lock a person out at once: end sessions and refuse API keys, but keep connections and shares. Safe to repeat.

    Raises NotAllowed, even for the actor's own account, or InUse for the last IT admin.
    """
    _require_may_disable(user, actor)
    with transaction.atomic():
        # Lock all IT admins in the same order, so that two who disable each other at once cannot both succeed.
        admins = querysets.it_admins().values("pk")
        # no_key lets others write rows that refer to an IT admin in the meantime.
        locked = User.objects.select_for_update(no_key=True)
        list(locked.filter(Q(pk__in=admins) | Q(pk=user.pk)).order_by("pk"))
        active = set(User.objects.filter(pk__in=(user.pk, actor.pk), is_active=True).values_list("pk", flat=True))
        access_roles.require(actor.pk in active, cause="Your own account has just been disabled.")
        if user.pk not in active:
            return
        if not querysets.it_admins().exclude(pk=user.pk).exists():
            raise InUse(f"{user} is the last IT admin.", action="Make somebody else an IT admin first.")
        User.objects.filter(pk=user.pk).update(is_active=False, signed_out_at=now)
        user.is_active, user.signed_out_at = False, now
        history.account_changed(user, actor=actor, now=now)
        audit.record(AuditAction.ACCOUNT_DISABLED, user, actor=actor, at=now)
        cause = f"{actor} disabled the account in this portal."
        offboarding.mark_departed(user, how=User.Left.DISABLED, cause=cause, now=now, actor=actor)


def enable_person(user: User, *, actor: User, now: datetime) -> None:
    """Let a person sign in again. Doing it twice is harmless. Raises NotAllowed."""
    _require_may_disable(user, actor)
    with transaction.atomic():
        if not User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
            return
        user.is_active = True
        history.account_changed(user, actor=actor, now=now)
        audit.record(AuditAction.ACCOUNT_ENABLED, user, actor=actor, at=now)
        user.refresh_from_db(fields=["left_at", "left_how", "left_cause"])
        offboarding.mark_returned(user, now=now, actor=actor)


def _require_may_disable(user: User, actor: User) -> None:
    access_roles.require(
        permissions.can_manage_people(actor), cause="Accounts are disabled by IT admins.", action="Ask one."
    )
    access_roles.require(user.pk != actor.pk, cause="You cannot shut yourself out.", action="Ask another IT admin.")
    access_roles.require(
        permissions.can_disable_person(actor, user),
        cause="This is an operator's account.",
        action="Only another operator of the portal can disable or enable it.",
    )


_ROLE_VALUES = ((IT_ADMINS, "admins"), (AUDITORS, "auditors"))


def has_groups_overage(claims: dict[str, Any]) -> bool:
    """Whether Microsoft left the groups out because the person is in too many (about 200) for a token.

    The token then has "groups" in ``_claim_names``, or ``hasgroups`` if it has to be short
    (identity-platform/access-token-claims-reference, id-token-claims-reference).
    """
    names = claims.get("_claim_names")
    return (isinstance(names, dict) and "groups" in names) or claims.get("hasgroups") in (True, "true")


def _follow_groups(user: User, claims: dict[str, Any], *, now: datetime) -> None:
    """Update teams and roles from the claims; keep those that come from groups if Microsoft left the groups out."""
    left_out = has_groups_overage(claims)
    _follow_roles(user, claims, left_out=left_out)
    if not left_out:
        teams.sync_groups(user, _values(claims, "groups"))
    elif user.groups_left_out_at is None:
        changes = {
            "roles_kept": audit.join_values(_roles_by_group(user)),
            "teams_kept": audit.join_values(user.teams.all()),
        }
        audit.record(AuditAction.ACCOUNT_GROUPS_LEFT_OUT, user, actor=None, changes=changes)
    groups_left_out_at = now if left_out else None
    if user.groups_left_out_at != groups_left_out_at:
        User.objects.filter(pk=user.pk).update(groups_left_out_at=groups_left_out_at)
        user.groups_left_out_at = groups_left_out_at


def _follow_roles(user: User, claims: dict[str, Any], *, left_out: bool) -> None:
    roles, groups = _values(claims, "roles"), _values(claims, "groups")
    login = settings.LOGIN_MICROSOFT
    kept = _roles_by_group(user) if left_out else set()
    before = set(user.groups.values_list("name", flat=True))
    held = {name for name, key in _ROLE_VALUES if (roles | groups) & set(login[key]) or name in kept}
    after = before - {name for name, _ in _ROLE_VALUES} | held
    if after != before:
        _set_groups(user, sorted(before), sorted(after), actor=None)
    if not left_out:
        by_group = sorted(name for name, key in _ROLE_VALUES if groups & set(login[key]))
        if user.roles_by_group != by_group:
            User.objects.filter(pk=user.pk).update(roles_by_group=by_group)
            user.roles_by_group = by_group


def _set_groups(user: User, before: list[str], after: list[str], *, actor: User | None) -> None:
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in after])
    audit.record(AuditAction.ACCOUNT_ROLES_CHANGED, user, actor=actor, changes={"roles": [before, after]})


def _roles_by_group(user: User) -> set[str]:
    """Return the roles that came from groups when Microsoft last sent them; all of them if that was not recorded."""
    if user.roles_by_group is None:
        return set(user.groups.filter(name__in=(IT_ADMINS, AUDITORS)).values_list("name", flat=True))
    return set(user.roles_by_group)


def _values(claims: dict[str, Any], name: str) -> set[str]:
    values = claims.get(name)
    return set(map(str, values)) if isinstance(values, list) else set()


def signed_in(user: User, *, actor: User, method: str) -> None:
    """Record a sign-in, which also shows that the person has not left. ``method`` is ``password`` or ``microsoft``."""
    with transaction.atomic():
        audit.record(AuditAction.ACCOUNT_SIGNED_IN, user, actor=actor, changes={"method": method})
        offboarding.mark_returned(user, now=timezone.now())


def signed_out(user: User, *, actor: User) -> None:
    audit.record(AuditAction.ACCOUNT_SIGNED_OUT, user, actor=actor)


def sign_in_failed(username: str, *, reason: str) -> None:
    """Record a failed sign-in with the name that was entered."""
    target = User(username=username[:150] or "(unknown)")
    audit.record(
        AuditAction.ACCOUNT_SIGN_IN_FAILED,
        target,
        actor=None,
        actor_name=target.username,
        changes={"reason": reason},
        outcome=AuditEvent.Outcome.DENIED,
    )


def set_roles(user: User, *, admin: bool, auditor: bool, actor: User | None) -> None:
    """Set the roles of a local or service account; the roles of Microsoft accounts come from their directory."""
    after = sorted(name for name, is_held in ((IT_ADMINS, admin), (AUDITORS, auditor)) if is_held)
    with transaction.atomic():
        before = sorted(user.groups.values_list("name", flat=True))
        if before != after:
            _set_groups(user, before, after, actor=actor)
