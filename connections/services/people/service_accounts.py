"""Service accounts, which never sign in. Automations use them so that they do not depend on a person's account."""

from datetime import datetime

from django.db import transaction
from django.utils.text import slugify

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import AuditEvent, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts
from connections.services.people import accounts
from connections.services.sharing import history
from connections.uniqueness import atomic_or


def create(
    *, name: str, purpose: str, responsible: User, admin: bool, auditor: bool, actor: User, now: datetime
) -> User:
    """Create a service account. Raises NotAllowed, AlreadyExists, or InvalidInput if ``responsible`` can't sign in."""
    _check(actor, responsible)
    account = User(
        username=username_of(name),
        first_name=name,
        kind=User.Kind.SERVICE,
        purpose=purpose,
        responsible=responsible,
        date_joined=now,
    )
    account.set_unusable_password()
    name_exists = AlreadyExists(
        f"A service account with this name or a very similar one already exists: “{name}”.",
        action="Choose another name.",
        field="name",
    )
    with atomic_or(lambda: name_exists):
        account.save()
        changes = {"purpose": purpose, "responsible": f"{responsible} <{responsible.username}>"}
        audit.record(AuditAction.SERVICE_ACCOUNT_CREATED, account, actor=actor, changes=changes)
        accounts.set_roles(account, admin=admin, auditor=auditor, actor=actor)
    return account


def username_of(name: str) -> str:
    return f"service:{slugify(name)[:100] or 'account'}"


def change(
    account: User, *, purpose: str, responsible: User, admin: bool, auditor: bool, actor: User, now: datetime
) -> None:
    """Change the purpose, the responsible person and the roles. Raises NotAllowed or InvalidInput."""
    _check(actor, responsible)
    before = account.responsible
    changes = audit.changed_fields(account, {"purpose": purpose, "responsible": responsible})
    with transaction.atomic():
        if changes:
            User.objects.filter(pk=account.pk, kind=User.Kind.SERVICE).update(purpose=purpose, responsible=responsible)
            event = audit.record(AuditAction.SERVICE_ACCOUNT_CHANGED, account, actor=actor, changes=changes)
            if "responsible" in changes:
                _tell_responsible(account, before, responsible, event, actor=actor, now=now)
        accounts.set_roles(account, admin=admin, auditor=auditor, actor=actor)
    account.purpose, account.responsible = purpose, responsible


def _tell_responsible(
    account: User, before: User | None, after: User, event: AuditEvent, *, actor: User, now: datetime
) -> None:
    """Alarm the old and the new responsible person, or the other IT admins if both are the actor or can't sign in."""
    involved = [person for person in (before, after) if person is not None and not person.is_suspended]
    people = [person for person in involved if person != actor] or querysets.it_admins().exclude(pk=actor.pk)
    message = alerts.Message(
        subject=f"{actor} made {after} responsible for {account}",
        paragraphs=(
            f"{actor} ({actor.username}) made {after} ({after.username}) responsible for the service account {account}.",
            "If you didn't expect this, ask another IT admin.",
        ),
        path=f"/service-accounts/{account.pk}/",
        button="View service account",
        why="You received this email because you are an IT admin, or are or were responsible for this service account.",
        tone="warning",
    )
    alerts.notify(people, message, about=f"service_account:{account.pk}:event:{event.pk}", now=now, is_alarm=True)


def disable(account: User, *, actor: User, now: datetime) -> None:
    """Refuse the account's API keys until it is enabled again. Safe to repeat. Raises NotAllowed."""
    _set_active(account, active=False, actor=actor, now=now)


def enable(account: User, *, actor: User, now: datetime) -> None:
    """Accept the account's API keys again. Safe to repeat. Raises NotAllowed."""
    _set_active(account, active=True, actor=actor, now=now)


def _set_active(account: User, *, active: bool, actor: User, now: datetime) -> None:
    _check(actor)
    with transaction.atomic():
        rows = User.objects.filter(pk=account.pk, kind=User.Kind.SERVICE, is_active=not active)
        if not rows.update(is_active=active):
            return
        account.is_active = active
        history.account_changed(account, actor=actor, now=now)
        action = AuditAction.SERVICE_ACCOUNT_ENABLED if active else AuditAction.SERVICE_ACCOUNT_DISABLED
        audit.record(action, account, actor=actor, at=now)


def remove(account: User, *, actor: User, now: datetime) -> None:
    """Remove a service account with its keys and shares. Raises NotAllowed, or InUse while it owns connections."""
    _check(actor)
    roles.require(account.is_service, cause="This isn't a service account.")
    accounts.remove(account, actor=actor, now=now)


def _check(actor: User, responsible: User | None = None) -> None:
    roles.require(
        permissions.can_manage_service_accounts(actor),
        cause="Only IT admins can create service accounts.",
        action="Ask one.",
    )
    if responsible is not None and (responsible.is_service or responsible.is_suspended):
        raise InvalidInput("Choose a person who can sign in to the portal.", field="responsible")
