"""People who leave: how the portal notices, and the incident that lasts until nothing of theirs is orphaned.

Somebody counts as having left when an IT admin disabled them here, when Microsoft refuses their own account with an
answer that proves it is disabled or deleted, or when the directory says so (services.directory). What a browser
brings back from a failed sign-in proves nothing: nobody knows which account was tried.
"""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from social_django.models import UserSocialAuth

from connections import audit
from connections.microsoft import account_status
from connections.microsoft.classifier import Verdict
from connections.models import Connection, User
from connections.models.audit import AuditAction
from connections.services.incidents import incidents

MICROSOFT = "microsoft"  # the sign-in whose uid is "{tid}.{oid}"

DepartureSource = User.Left


def mark_departed(person: User, *, how: str, cause: str, now: datetime, actor: User | None = None) -> None:
    """Somebody has left. The first cause stays, unless an IT admin disables them here as well. Twice is harmless."""
    with transaction.atomic():
        current = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        if current.left_at is None or (
            how == DepartureSource.DISABLED and current.left_how != DepartureSource.DISABLED
        ):
            values = {"left_at": current.left_at or now, "left_how": how, "left_cause": cause}
            User.objects.filter(pk=person.pk).update(**values)
            audit.record(
                AuditAction.ACCOUNT_LEFT,
                current,
                actor=actor,
                changes={"how": DepartureSource(how).label, "cause": cause},
            )
        update_incident(person, now=now)
    person.refresh_from_db(fields=["left_at", "left_how", "left_cause"])


def mark_returned(person: User, *, now: datetime, actor: User | None = None) -> None:
    """Somebody is here (again): they have not left. Does nothing for whom that is no news."""
    if person.left_at is None:
        return
    with transaction.atomic():
        people = User.objects.filter(pk=person.pk, is_active=True, left_at__isnull=False)
        if people.update(left_at=None, left_how="", left_cause=""):
            audit.record(AuditAction.ACCOUNT_BACK, person, actor=actor)
        update_incident(person, now=now)
    person.refresh_from_db(fields=["left_at", "left_how", "left_cause"])


def update_incident(person: User, *, now: datetime) -> None:
    """Open or close the incident of a leaver by what they own now. Call it whenever either may have changed."""
    current = User.objects.get(pk=person.pk)
    owned = current.connections.select_related("owner")
    if current.left_at is not None and owned.exists():
        incidents.owner_left(current, owned, now=now)
    else:
        incidents.owner_returned(current, now=now)


def account_refused(connection: Connection, verdict: Verdict, *, now: datetime) -> None:
    """Microsoft refuses the account of this connection: if it is its owner's own, the owner has left."""
    cause = account_status.cause(verdict)
    if not cause or connection.app_registration.tenant.environment != settings.LOGIN_MICROSOFT["environment"]:
        return
    uid = f"{connection.account_tid}.{connection.account_oid}"
    whose = UserSocialAuth.objects.filter(provider=MICROSOFT, uid=uid).select_related("user").first()
    if whose is not None:
        mark_departed(whose.user, how=DepartureSource.REFUSED, cause=f"{cause} ({verdict.code})", now=now)


def departed_owners() -> QuerySet[User]:
    """Those who have left and still own connections."""
    owning = Connection.objects.values("owner")
    return User.objects.filter(left_at__isnull=False, pk__in=owning).order_by("left_at", "pk")


def update_incidents(*, now: datetime) -> None:
    """The safety net of the routine: whoever left before the portal kept incidents about it gets theirs."""
    for person in departed_owners():
        update_incident(person, now=now)
