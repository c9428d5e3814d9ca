"""A person's sessions in browsers: which there are, and how to end them."""

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
    """End one of the person's own sessions. Doing it twice is harmless."""
    roles.require(actor.pk == person.pk, cause="Only the person can end a single session.")
    with transaction.atomic():
        session = open_sessions(person, now=now).filter(pk=digest).first()
        if session is None:
            return
        session.delete()
        changes = {"browser": session.browser, "signed_in_at": str(session.signed_in_at)}
        audit.record(AuditAction.ACCOUNT_SESSION_ENDED, person, actor=actor, at=now, changes=changes)


def end_all(person: User, *, actor: User, now: datetime) -> int:
    """Sign a person out everywhere and return how many sessions that ended. IT admins may do it for others."""
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
    """Make every session of a person invalid, even one that is just being stored; return how many were open."""
    User.objects.filter(pk=person.pk).update(signed_out_at=now)
    person.signed_out_at = now
    count = open_sessions(person, now=now).count()
    Session.objects.filter(person=person).delete()
    return count


def prune(*, now: datetime) -> int:
    """Delete sessions that have ended, and return how many. Sign-ins at Microsoft that were not completed go, too."""
    # social-auth stores one for every sign-in that begins, and deletes only those that return.
    begun_before = int(now.timestamp()) - SIGN_IN_LIFETIME
    Nonce.objects.filter(timestamp__lt=begun_before).delete()
    deleted, _ = Session.objects.filter(expire_date__lte=now).delete()
    return deleted
