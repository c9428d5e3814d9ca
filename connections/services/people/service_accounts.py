"""Service accounts: what automations act as, when they are to depend on nobody's account. They never sign in."""

from __future__ import annotations

from datetime import datetime

from django.db import IntegrityError, transaction
from django.utils.text import slugify

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import User
from connections.models.audit import AuditAction
from connections.services.people import accounts
from connections.services.sharing import history


def create(
    *, name: str, purpose: str, responsible: User, admin: bool, auditor: bool, actor: User, now: datetime
) -> User:
    """Make a service account; ``admin`` and ``auditor`` give it the role of that name.

    Raises NotAllowed, AlreadyExists, InvalidInput if the responsible person cannot be asked anything.
    """
    _require(actor)
    _check_responsible(responsible)
    person = User(
        username=username_of(name),
        first_name=name,
        kind=User.Kind.SERVICE,
        purpose=purpose,
        responsible=responsible,
        date_joined=now,
    )
    person.set_unusable_password()
    try:
        with transaction.atomic():
            person.save()
            facts = {"purpose": purpose, "responsible": f"{responsible} <{responsible.username}>"}
            audit.record(AuditAction.SERVICE_ACCOUNT_CREATED, person, actor=actor, changes=facts)
            accounts.set_roles(person, admin=admin, auditor=auditor, actor=actor)
    except IntegrityError as taken:
        raise AlreadyExists(
            f"There is a service account called “{name}” already, or one with nearly that name.",
            action="Choose another name.",
            field="name",
        ) from taken
    return person


def username_of(name: str) -> str:
    """The user name a service account of this name gets."""
    return f"service:{slugify(name)[:100] or 'account'}"


def change(
    account: User, *, purpose: str, responsible: User, admin: bool, auditor: bool, actor: User, now: datetime
) -> None:
    """Change what it is for, who is responsible, and its roles. Raises NotAllowed, InvalidInput."""
    _require(actor)
    _check_responsible(responsible)
    changes = audit.changed_fields(account, {"purpose": purpose, "responsible": responsible})
    with transaction.atomic():
        if changes:
            User.objects.filter(pk=account.pk, kind=User.Kind.SERVICE).update(purpose=purpose, responsible=responsible)
            audit.record(AuditAction.SERVICE_ACCOUNT_CHANGED, account, actor=actor, changes=changes)
        accounts.set_roles(account, admin=admin, auditor=auditor, actor=actor)
    account.purpose, account.responsible = purpose, responsible


def disable(account: User, *, actor: User, now: datetime) -> None:
    """Refuse its keys from now on; they work again once it is enabled. Doing it twice is harmless. Raises NotAllowed."""
    _switch(account, active=False, actor=actor, now=now)


def enable(account: User, *, actor: User, now: datetime) -> None:
    """Let its keys work again. Doing it twice is harmless. Raises NotAllowed."""
    _switch(account, active=True, actor=actor, now=now)


def _switch(account: User, *, active: bool, actor: User, now: datetime) -> None:
    _require(actor)
    with transaction.atomic():
        people = User.objects.filter(pk=account.pk, kind=User.Kind.SERVICE, is_active=not active)
        if not people.update(is_active=active):
            return
        account.is_active = active
        history.account_changed(account, actor=actor, now=now)
        audit.record(
            AuditAction.SERVICE_ACCOUNT_ENABLED if active else AuditAction.SERVICE_ACCOUNT_DISABLED,
            account,
            actor=actor,
            at=now,
        )


def remove(account: User, *, actor: User, now: datetime) -> None:
    """Remove a service account with its keys and shares; what it fetched stays in the history.

    Raises NotAllowed, StillInUse while it owns connections.
    """
    _require(actor)
    roles.require(account.is_service, cause="This is a person.")
    accounts.remove(account, actor=actor, now=now)


def _require(actor: User) -> None:
    roles.require(
        permissions.can_manage_service_accounts(actor),
        cause="Service accounts are made by IT admins.",
        action="Ask one.",
    )


def _check_responsible(person: User) -> None:
    if person.is_service or not person.is_active:
        raise InvalidInput("Choose a person who can sign in to the portal.", field="responsible")
