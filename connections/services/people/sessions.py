"""List and end a person's browser sessions."""

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from social_django.models import Nonce

from connections import audit
from connections.access import permissions, roles
from connections.microsoft.backends import SIGN_IN_LIFETIME
from connections.models import Session, User
from connections.models.audit import AuditAction


def open_sessions(person: User, *, now: datetime) -> QuerySet[Session]:
    return Session.objects.filter(person=person, expire_date__gt=now).defer("session_data")


def end(person: User, digest: str, *, actor: User, now: datetime) -> None:
    """End one of the person's own sessions. Safe to repeat. Raises NotAllowed."""
    roles.require(actor.pk == person.pk, cause="Only the person can end a single session.")
    with transaction.atomic():
        session = open_sessions(person, now=now).filter(pk=digest).first()
        if session is None:
            return
        session.delete()
        changes = {"browser": session.browser, "signed_in_at": str(session.signed_in_at)}
        audit.record(AuditAction.ACCOUNT_SESSION_ENDED, person, actor=actor, at=now, changes=changes)


def end_all(person: User, *, actor: User, now: datetime) -> int:
    """Sign a person out everywhere. Returns how many sessions that ended. IT admins can do this for other people.

    Raises NotAllowed.
    """
    if actor.pk != person.pk:
        cause = "Only IT admins can sign out other people."
        roles.require(permissions.can_manage_people(actor), cause=cause, action="Ask one.")
        action = "Only another operator of the portal can do this."
        roles.require(
            permissions.can_disable_person(actor, person), cause="This is an operator's account.", action=action
        )
    with transaction.atomic():
        count = forget_all(person, now=now)
        changes = {"sessions": count}
        audit.record(AuditAction.ACCOUNT_SIGNED_OUT_EVERYWHERE, person, actor=actor, at=now, changes=changes)
    return count


def forget_all(person: User, *, now: datetime) -> int:
    """Invalidate every session of a person, even one that is just being stored. Returns how many were open."""
    User.objects.filter(pk=person.pk).update(signed_out_at=now)
    person.signed_out_at = now
    count = open_sessions(person, now=now).count()
    Session.objects.filter(person=person).delete()
    return count


def prune(*, now: datetime) -> int:
    """Delete expired sessions, and Microsoft sign-ins that were not completed. Returns the number of sessions."""
    # social-auth stores a nonce for every sign-in that begins, and deletes it only when the sign-in returns.
    begun_before = int(now.timestamp()) - SIGN_IN_LIFETIME
    Nonce.objects.filter(timestamp__lt=begun_before).delete()
    deleted, _ = Session.objects.filter(expire_date__lte=now).delete()
    return deleted
