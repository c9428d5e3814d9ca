"""People who leave: how the portal notices it, and the incident that stays open while they own connections.

Leaving suspends a person's sessions, keys, shares and rights as an owner (``User.is_suspended``, which
connections/access checks). Nothing is deleted, so everything works again when they are back. Their shares with other
people stay active.

A person has left when an IT admin disabled them here, Microsoft refuses their own account, or the directory says so. A
failed sign-in in a browser proves nothing, because it does not show which account was used.
"""

from datetime import datetime

from django.conf import settings
from django.db import transaction
from social_django.models import UserSocialAuth

from connections import audit
from connections.microsoft import account_status
from connections.microsoft.classifier import Verdict
from connections.models import Connection, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents
from connections.services.sharing import history

MICROSOFT = "microsoft"  # the sign-in provider whose uid is "{tid}.{oid}"


def mark_departed(person: User, *, how: str, cause: str, now: datetime, actor: User | None = None) -> None:
    """Mark a person as having left. The first cause is kept, unless an IT admin also disables them here."""
    with transaction.atomic():
        current = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        if current.left_at is None or (how == User.Left.DISABLED and current.left_how != User.Left.DISABLED):
            current.left_at = current.left_at or now
            values = {"left_at": current.left_at, "left_how": how, "left_cause": cause}
            User.objects.filter(pk=person.pk).update(**values)
            history.account_changed(current, actor=actor, now=now)
            changes = {"how": User.Left(how).label, "cause": cause, "suspended": True}
            audit.record(AuditAction.ACCOUNT_LEFT, current, actor=actor, at=now, changes=changes)
        update_incident(person, now=now)
    person.refresh_from_db(fields=["left_at", "left_how", "left_cause"])


def mark_returned(person: User, *, now: datetime, actor: User | None = None) -> None:
    """Mark a person who had left as back. Does nothing for other people."""
    if person.left_at is None:
        return
    with transaction.atomic():
        people = User.objects.filter(pk=person.pk, is_active=True, left_at__isnull=False)
        if people.update(left_at=None, left_how="", left_cause=""):
            person.left_at = None
            history.account_changed(person, actor=actor, now=now)
            audit.record(AuditAction.ACCOUNT_BACK, person, actor=actor, at=now)
        update_incident(person, now=now)
    person.refresh_from_db(fields=["left_at", "left_how", "left_cause"])


def update_incident(person: User, *, now: datetime) -> None:
    """Open the incident if the person has left and owns connections. Otherwise, close it."""
    current = User.objects.get(pk=person.pk)
    owned = current.connections.select_related("owner")
    if current.left_at is not None and owned.exists():
        incidents.owner_left(current, owned, now=now)
    else:
        incidents.owner_returned(current, now=now)


def account_refused(connection: Connection, verdict: Verdict, *, now: datetime) -> None:
    """If Microsoft's refusal shows that the connection's account is gone, mark the account's person as having left."""
    cause = account_status.cause(verdict)
    if not cause or connection.tenant.environment != settings.LOGIN_MICROSOFT["environment"]:
        return
    uid = f"{connection.account_tid}.{connection.account_oid}"
    login = UserSocialAuth.objects.filter(provider=MICROSOFT, uid=uid).select_related("user").first()
    if login is not None:
        mark_departed(login.user, how=User.Left.REFUSED, cause=f"{cause} ({verdict.code})", now=now)


def update_incidents(*, now: datetime) -> None:
    """Ensure that there is an incident for everybody who has left and still owns connections."""
    owners = Connection.objects.values("owner")
    for person in User.objects.filter(left_at__isnull=False, pk__in=owners).order_by("left_at", "pk"):
        update_incident(person, now=now)
