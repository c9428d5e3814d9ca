"""People's accounts, created at their first Microsoft sign-in and updated from their directory at every later one."""

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections import audit
from connections.access import permissions, querysets
from connections.access import roles as access_roles
from connections.errors import InUse, NotAllowed
from connections.microsoft import guests
from connections.models import User
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.incidents import incidents
from connections.services.notifications import alerts
from connections.services.people import offboarding, sessions, sign_in_limits
from connections.services.sharing import history, references, shares, teams


def create_from_directory(*, claims: dict[str, Any]) -> User:
    """Create an account at a person's first Microsoft sign-in."""
    # Never link an existing account: other directories can choose any user name, and only (tid, oid) identifies a
    # person.
    username = str(claims.get("preferred_username") or claims["oid"])[:140]
    with transaction.atomic():
        if User.objects.filter(username__iexact=username).exists():
            username = f"{username} ({claims['oid'][:8]})"
        user = User(username=username)
        user.set_unusable_password()
        user.save()
        audit.record(AuditAction.ACCOUNT_ADMITTED, user, actor=user, changes={"method": "microsoft"})
    return user


def with_microsoft_account(uid: str) -> User | None:
    """Return the account that signs in with this Microsoft account (tenant ID, a dot, and object ID), or None."""
    login = UserSocialAuth.objects.filter(provider=offboarding.MICROSOFT, uid=uid).select_related("user").first()
    return login.user if login else None


def invite(username: str, *, name: str, email: str, uid: str, actor: User, now: datetime) -> User:
    """Create a person's account, without roles, before their first sign-in. Raises NotAllowed and InUse.

    ``uid`` is their Microsoft account as tenant ID, a dot, and object ID. It is empty for a local account, which can't
    sign in until an operator sets its password.
    """
    access_roles.require(permissions.can_manage_people(actor), cause="Only IT admins add people.", action="Ask one.")
    first_name, _, last_name = name.partition(" ")
    with transaction.atomic():
        if User.objects.filter(username__iexact=username).exists() or (uid and with_microsoft_account(uid)):
            raise InUse(f"{username} has an account already.")
        user = User(username=username, first_name=first_name[:150], last_name=last_name[:150], email=email)
        user.set_unusable_password()
        user.save()
        if uid:
            UserSocialAuth.objects.create(user=user, provider=offboarding.MICROSOFT, uid=uid)
        changes = {"invited": True, "sign_in": "microsoft" if uid else "password"}
        audit.record(AuditAction.ACCOUNT_ADDED, user, actor=actor, at=now, changes=changes)
    return user


def require_admitted(claims: dict[str, Any]) -> None:
    """Raise NotAllowed for accounts of other directories and for guests, unless the settings admit them.

    Accounts of the sign-in tenant are always admitted. Names in the claims don't count, because anybody can choose
    them.
    """
    tid, tenant = str(claims.get("tid", "")).lower(), settings.LOGIN_MICROSOFT["tenant"].lower()
    directories = {directory.strip().lower() for directory in settings.LOGIN_MICROSOFT_DIRECTORIES}
    # If the tenant is configured by its domain, Microsoft issues tokens for that directory only.
    is_foreign = _is_directory_id(tenant) and tid != tenant
    is_guest = guests.is_guest(claims)
    listed = {guest.strip().lower() for guest in settings.LOGIN_MICROSOFT_GUESTS}
    if is_foreign and tid not in directories:
        kind = "an account of another organisation"
    elif is_guest and not ({"*", str(claims.get("oid", "")).lower()} & listed or _home(claims) in directories):
        kind = "a guest account"
    else:
        return
    sign_in_failed(str(claims.get("preferred_username") or ""), reason="guest_not_allowed")
    raise NotAllowed(
        f"You signed in to Microsoft with {kind}, but that account can't use this portal.",
        action="Use your account in this organisation. If you need access as a guest, ask an operator of the portal.",
    )


def _home(claims: dict[str, Any]) -> str:
    """Return the guest's own directory, or "-" if the token does not name a directory other than the sign-in tenant."""
    home = guests.home_directory(claims)
    return home if home and home != str(claims.get("tid", "")).lower() else "-"


def _is_directory_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def update_from_directory(user: User, *, claims: dict[str, Any], confirms: bool = False) -> None:
    """Update name, address, roles and teams from the directory's claims, and record the sign-in.

    With ``confirms``, the person was already signed in and has confirmed their identity again.
    """
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
            set_columns(user, values)
            audit.record(AuditAction.ACCOUNT_UPDATED, user, actor=user, changes=changes)
        _follow_groups(user, claims, now=timezone.now())
        (confirmed if confirms else signed_in)(user, actor=user, method="microsoft")
        incidents.portal_sign_in_accepted(now=timezone.now())


def remove(user: User, *, actor: User, now: datetime) -> None:
    """Remove an account with its shares, memberships and API keys. Raises InUse while it owns connections."""
    with transaction.atomic():
        # While the row is locked, nothing that refers to the account can be created and then be deleted with it.
        User.objects.select_for_update().filter(pk=user.pk).first()
        require_removable(user)
        shares.end_all_of(person=user, actor=actor, now=now)
        teams.remove_from_all(user, actor=actor, now=now)
        references.owner_removed(user, actor=actor, now=now)
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
            action="Transfer or remove them first.",
        )


def disable_person(user: User, *, actor: User, now: datetime) -> None:
    """Lock a person out at once. Safe to repeat. Raises NotAllowed, or InUse for the last IT admin."""
    _require_may_disable(user, actor)
    with transaction.atomic():
        # Lock all IT admins in the same order, so that two of them who disable each other at once cannot both succeed.
        admins = querysets.it_admins().values("pk")
        # no_key lets other transactions write rows that refer to an IT admin in the meantime.
        locked = User.objects.select_for_update(no_key=True)
        list(locked.filter(Q(pk__in=admins) | Q(pk=user.pk)).order_by("pk"))
        active = set(User.objects.filter(pk__in=(user.pk, actor.pk), is_active=True).values_list("pk", flat=True))
        access_roles.require(actor.pk in active, cause="Your own account was disabled.")
        if user.pk not in active:
            return
        if not querysets.it_admins().exclude(pk=user.pk).exists():
            raise InUse(f"{user} is the last IT admin.", action="Add another IT admin first.")
        User.objects.filter(pk=user.pk).update(is_active=False)
        user.is_active = False
        sessions.forget_all(user, now=now)
        history.account_changed(user, actor=actor, now=now)
        audit.record(AuditAction.ACCOUNT_DISABLED, user, actor=actor, at=now)
        cause = f"{actor} disabled the account in this portal."
        offboarding.mark_departed(user, how=User.Left.DISABLED, cause=cause, now=now, actor=actor)


def enable_person(user: User, *, actor: User, now: datetime) -> None:
    """Let a person sign in again. Safe to repeat. Raises NotAllowed."""
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
        permissions.can_manage_people(actor), cause="Only IT admins can disable accounts.", action="Ask an IT admin."
    )
    access_roles.require(
        user.pk != actor.pk, cause="You can't disable your own account.", action="Ask another IT admin."
    )
    access_roles.require(
        permissions.can_disable_person(actor, user),
        cause="This account belongs to an operator.",
        action="Only another operator can disable or enable it.",
    )


_ROLE_VALUES = ((IT_ADMINS, "admins"), (AUDITORS, "auditors"))


def has_groups_overage(claims: dict[str, Any]) -> bool:
    """Whether Microsoft omitted the groups because the person is in too many for a token (about 200).

    The token then has "groups" in ``_claim_names``, or ``hasgroups`` if the token has to be short
    (identity-platform/access-token-claims-reference, id-token-claims-reference).
    """
    names = claims.get("_claim_names")
    return (isinstance(names, dict) and "groups" in names) or claims.get("hasgroups") in (True, "true")


def confirm_from_directory(
    user: User, *, roles: Collection[str] | None, groups: Collection[str], now: datetime
) -> None:
    """Update roles and teams from a background check of the directory. Like a sign-in, it renews what it confirms.

    ``roles`` is None if the directory did not report them. ``groups`` are those of the person's groups that the portal
    knows.
    """
    with transaction.atomic():
        known = set(groups) if _are_groups_ids(user) else None
        _follow_roles(user, None if roles is None else set(roles), known, now=now)
        if known is not None:
            teams.sync_groups(user, known)
            _set(user, groups_read_at=now)


def _are_groups_ids(user: User) -> bool:
    """Whether all groups behind this person's roles and teams are configured by ID. Graph can be asked only for IDs."""
    followed = user.teams.exclude(entra_group="").values_list("entra_group", flat=True)
    mapped = [settings.LOGIN_MICROSOFT[key] for name, key in _ROLE_VALUES if name in _roles_by_group(user)]
    return all(map(_is_directory_id, followed)) and all(any(map(_is_directory_id, values)) for values in mapped)


def _follow_groups(user: User, claims: dict[str, Any], *, now: datetime) -> None:
    """Update teams and roles from the claims. If Microsoft omitted the groups, roles and teams from groups are kept."""
    left_out = has_groups_overage(claims)
    groups = _values(claims, "groups")
    _follow_roles(user, _values(claims, "roles"), None if left_out else groups, now=now)
    if not left_out:
        teams.sync_groups(user, groups)
    elif user.groups_left_out_at is None:
        changes = {
            "roles_kept": audit.join_values(_roles_by_group(user)),
            "teams_kept": audit.join_values(user.teams.all()),
        }
        audit.record(AuditAction.ACCOUNT_GROUPS_LEFT_OUT, user, actor=None, changes=changes)
    # Groups that Microsoft omitted are not confirmed, so the time of their last confirmation stays.
    groups_read_at = user.groups_read_at if left_out and user.groups_read_at else now
    _set(user, groups_left_out_at=now if left_out else None, groups_read_at=groups_read_at)


def _set(user: User, **values: Any) -> None:
    if audit.changed_fields(user, values):
        User.objects.filter(pk=user.pk).update(**values)
        set_columns(user, values)


def _follow_roles(user: User, roles: set[str] | None, groups: set[str] | None, *, now: datetime) -> None:
    """Set the roles that these app roles and groups give. None means unknown: roles from that source are kept."""
    login = settings.LOGIN_MICROSOFT
    before = set(user.groups.values_list("name", flat=True))
    retained = _roles_by_group(user) if groups is None else set()
    if roles is None:
        retained |= before & {name for name, _ in _ROLE_VALUES} - set(user.roles_by_group or ())
    values = (roles or set()) | (groups or set())
    confirmed = {name for name, key in _ROLE_VALUES if values & set(login[key])}
    held = confirmed | retained
    after = before - {name for name, _ in _ROLE_VALUES} | held
    if after != before:
        _set_groups(user, sorted(before), sorted(after), actor=None)
    if groups is not None:
        _set(user, roles_by_group=sorted(name for name, key in _ROLE_VALUES if groups & set(login[key])))
    # Roles that are only kept are not confirmed, so the time of their last confirmation stays.
    if held <= confirmed or user.roles_read_at is None:
        _set(user, roles_read_at=now)


def _set_groups(user: User, before: list[str], after: list[str], *, actor: User | None) -> None:
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in after])
    audit.record(AuditAction.ACCOUNT_ROLES_CHANGED, user, actor=actor, changes={"roles": [before, after]})


def _roles_by_group(user: User) -> set[str]:
    """Return the roles that came from groups when Microsoft last sent groups, or all roles if that was not recorded."""
    if user.roles_by_group is None:
        return set(user.groups.filter(name__in=(IT_ADMINS, AUDITORS)).values_list("name", flat=True))
    return set(user.roles_by_group)


def _values(claims: dict[str, Any], name: str) -> set[str]:
    values = claims.get(name)
    return set(map(str, values)) if isinstance(values, list) else set()


def signed_in(user: User, *, actor: User, method: str, second_factor: str = "") -> None:
    """Record a sign-in by ``password`` or ``microsoft``. The latter also proves that the person has not left."""
    with transaction.atomic():
        changes = {"method": method} | ({"second_factor": second_factor} if second_factor else {})
        audit.record(AuditAction.ACCOUNT_SIGNED_IN, user, actor=actor, changes=changes)
        if method == "microsoft":
            offboarding.mark_returned(user, now=timezone.now())


def confirmed(user: User, *, actor: User, method: str) -> None:
    """Record that a signed-in person has confirmed their identity again."""
    audit.record(AuditAction.ACCOUNT_CONFIRMED, user, actor=actor, changes={"method": method})


def signed_out(user: User, *, actor: User) -> None:
    audit.record(AuditAction.ACCOUNT_SIGNED_OUT, user, actor=actor)


def sign_in_failed(username: str, *, reason: str) -> None:
    """Record a refused sign-in with the name that was entered. Repeats from one address become one event."""
    sign_in_limits.refused_elsewhere(username, reason=reason, address=audit.origin.get().address, now=timezone.now())


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of an account: its roles, and its rights on Django's admin site."""

    roles: list[str]
    staff: bool
    superuser: bool
    permissions: list[str]


def rights_of(user: User) -> Rights:
    names = user.user_permissions.order_by("codename").values_list("codename", flat=True)
    roles = user.groups.order_by("name").values_list("name", flat=True)
    return Rights(list(roles), user.is_staff, user.is_superuser, list(names))


def rights_changed(user: User, *, before: Rights | None, actor: User, now: datetime) -> None:
    """Record the changes since ``before`` (None: a new account), and email all IT admins and auditors.

    Call it in the transaction of the change. Does nothing if nothing has changed.
    """
    old, new = before or Rights([], staff=False, superuser=False, permissions=[]), rights_of(user)
    changes = audit.changed_fields(old, asdict(new))
    if not changes:
        return
    event = audit.record(AuditAction.ACCOUNT_ROLES_CHANGED, user, actor=actor, at=now, changes=changes)
    message = alerts.Message(
        f"{actor} changed the rights of {user}",
        ("The change was made on the admin site. If you didn't expect it, ask them, and disable the account.",),
        f"/audit/{event.pk}/",
        "View event",
        "You received this email because you are an IT admin or an auditor.",
        facts=tuple(
            (name.capitalize(), f"{_in_words(previous)} → {_in_words(current)}")
            for name, (previous, current) in changes.items()
        ),
        tone="warning",
    )
    alerts.notify(querysets.overseers(), message, about=f"rights:{event.pk}", now=now, is_alarm=True)


def _in_words(value: list[str] | bool) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else audit.join_values(value) or "none"


def change_password(user: User, *, password: str, actor: User) -> None:
    """Set a new local password, which ends all sessions that were opened with the old one. Raises NotAllowed."""
    access_roles.require(user.pk == actor.pk, cause="Everybody changes their own password.")
    access_roles.require(
        user.has_usable_password(), cause="You sign in with Microsoft.", action="Change your password there."
    )
    with transaction.atomic():
        user.set_password(password)
        user.save(update_fields=["password"])
        audit.record(AuditAction.ACCOUNT_PASSWORD_CHANGED, user, actor=actor)


def set_roles(user: User, *, admin: bool, auditor: bool, actor: User | None) -> None:
    """Set the roles of a local or service account. Microsoft accounts get their roles from their directory."""
    after = sorted(name for name, is_held in ((IT_ADMINS, admin), (AUDITORS, auditor)) if is_held)
    with transaction.atomic():
        before = sorted(user.groups.values_list("name", flat=True))
        if before != after:
            _set_groups(user, before, after, actor=actor)
