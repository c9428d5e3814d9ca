"""People: admitted at their first Microsoft sign-in, following their directory at every later one."""

from __future__ import annotations

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
        audit.record(AuditAction.ACCOUNT_ADMITTED, user, actor=user, changes={"method": "microsoft"})
    return user


def update_from_directory(user: User, *, claims: dict[str, Any]) -> None:
    """Take over name, address and roles as the directory has them now. Doing it twice changes nothing."""
    name = str(claims.get("name") or "")
    values = {
        "first_name": name.partition(" ")[0][:150],
        "last_name": name.partition(" ")[2][:150],
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
    """Remove an account, with its shares, memberships and API keys. What it could use stays in the access history.

    Raises StillInUse while it owns connections: they would lose their owner.
    """
    with transaction.atomic():
        # Whatever is about to refer to them waits, and then fails: it would go with them, and nothing would say so.
        User.objects.select_for_update().filter(pk=user.pk).first()
        require_removable(user)
        shares.end_all_of(person=user, actor=actor, now=now)
        teams.remove_from_all(user, actor=actor, now=now)
        history.person_removed(user, actor=actor, now=now)
        roles = sorted(user.groups.values_list("name", flat=True))
        facts = {"roles": roles, "superuser": user.is_superuser, "active": user.is_active}
        audit.record(AuditAction.ACCOUNT_REMOVED, user, actor=actor, at=now, changes=facts)
        user.delete()


def require_removable(user: User) -> None:
    """Raise StillInUse while the account owns connections."""
    owned = list(user.connections.values_list("name", flat=True)[:4])
    if owned:
        raise InUse(
            f"{user} still owns connections: {audit.join_values(owned[:3])}{'…' if len(owned) > 3 else ''}.",
            action="Hand them over or remove them first.",
        )


def disable_person(user: User, *, actor: User, now: datetime) -> None:
    """Shut somebody out of the portal at once: sessions end, their API keys are refused, what they own stays theirs.

    Connections they shared go on. Doing it twice is harmless. Raises NotAllowed, also for oneself; StillInUse for the
    last IT admin.
    """
    _require_may_disable(user, actor)
    with transaction.atomic():
        # All of them, in one order: two IT admins who disable each other at once must not both succeed.
        admins = querysets.it_admins().values("pk")
        # Their keys stay free: whatever an IT admin does just now refers to them, and must not wait for this.
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
    """Let somebody in again; they must sign in anew. Doing it twice is harmless. Raises NotAllowed."""
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


# --- Roles and groups -----------------------------------------------------------------------------

_ROLE_VALUES = ((IT_ADMINS, "admins"), (AUDITORS, "auditors"))


def has_groups_overage(claims: dict[str, Any]) -> bool:
    """Whether Microsoft named no groups because the person is in too many (about 200) for a token.

    Then the token says where to ask instead: "groups" in ``_claim_names``, or ``hasgroups`` in short tokens
    (identity-platform/access-token-claims-reference, id-token-claims-reference).
    """
    names = claims.get("_claim_names")
    return (isinstance(names, dict) and "groups" in names) or claims.get("hasgroups") in (True, "true")


def _follow_groups(user: User, claims: dict[str, Any], *, now: datetime) -> None:
    """Teams and roles by group stay as they were while Microsoft leaves the groups out; that is noted and told."""
    left_out = has_groups_overage(claims)
    _follow_roles(user, claims, left_out=left_out)
    if not left_out:
        teams.sync_groups(user, [str(group) for group in _listed(claims.get("groups"))])
    elif user.groups_left_out_at is None:
        facts = {
            "roles_kept": audit.join_values(_kept_by_group(user)),
            "teams_kept": audit.join_values(user.teams.all()),
        }
        audit.record(AuditAction.ACCOUNT_GROUPS_LEFT_OUT, user, actor=None, changes=facts)
    noted = now if left_out else None
    if user.groups_left_out_at != noted:
        User.objects.filter(pk=user.pk).update(groups_left_out_at=noted)
        user.groups_left_out_at = noted


def _follow_roles(user: User, claims: dict[str, Any], *, left_out: bool) -> None:
    by_role, by_group = ({str(value) for value in _listed(claims.get(key))} for key in ("roles", "groups"))
    login = settings.LOGIN_MICROSOFT
    before = set(user.groups.values_list("name", flat=True))
    after = set(before)
    kept = _kept_by_group(user) if left_out else set()
    for group, key in _ROLE_VALUES:
        held = (by_role | by_group) & set(login[key]) or group in kept
        after = after | {group} if held else after - {group}
    if after != before:
        user.groups.set([Group.objects.get_or_create(name=name)[0] for name in sorted(after)])
        audit.record(
            AuditAction.ACCOUNT_ROLES_CHANGED, user, actor=None, changes={"roles": [sorted(before), sorted(after)]}
        )
    if not left_out:
        _note_roles_by_group(user, sorted(group for group, key in _ROLE_VALUES if by_group & set(login[key])))


def _kept_by_group(user: User) -> set[str]:
    """Roles that came from groups when those were named last; before that was noted, any role may have."""
    if user.roles_by_group is None:
        return set(user.groups.filter(name__in=(IT_ADMINS, AUDITORS)).values_list("name", flat=True))
    return set(user.roles_by_group)


def _note_roles_by_group(user: User, names: list[str]) -> None:
    if user.roles_by_group != names:
        User.objects.filter(pk=user.pk).update(roles_by_group=names)
        user.roles_by_group = names


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def signed_in(user: User, *, actor: User, method: str) -> None:
    """Record that somebody signed in; who does has not left. ``method`` is ``password`` or ``microsoft``."""
    with transaction.atomic():
        audit.record(AuditAction.ACCOUNT_SIGNED_IN, user, actor=actor, changes={"method": method})
        offboarding.mark_returned(user, now=timezone.now())


def signed_out(user: User, *, actor: User) -> None:
    """Record that somebody signed out."""
    audit.record(AuditAction.ACCOUNT_SIGNED_OUT, user, actor=actor)


def sign_in_failed(username: str, *, reason: str) -> None:
    """Record a sign-in that failed; the name is as typed, it may be nobody's."""
    typed = User(username=username[:150] or "(unknown)")
    audit.record(
        AuditAction.ACCOUNT_SIGN_IN_FAILED,
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
        audit.record(AuditAction.ACCOUNT_ROLES_CHANGED, user, actor=actor, changes={"roles": [before, sorted(wanted)]})
