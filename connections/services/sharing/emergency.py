"""Emergency access: an IT admin can use someone else's connection for a few hours. Everybody concerned is alarmed."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.models import Connection, Share, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts
from connections.services.sharing import shares

REASON_LENGTH = 2000


def take(connection: Connection, *, hours: int, reason: str, actor: User, now: datetime) -> Share:
    """Give the actor ``use`` access for ``hours``, at most EMERGENCY_ACCESS_HOURS. It can't be extended.

    Alarms the owner, all IT admins and the auditors at once. The policy's rules about sharing do not apply. Raises
    NotAllowed, also if the actor can use the connection already, InvalidInput (field ``hours`` or ``reason``) or
    AlreadyExists.
    """
    reason = reason.strip()[:REASON_LENGTH]
    if not reason:
        raise InvalidInput("Enter a reason. The owner, all IT admins and the auditors read it.", field="reason")
    longest = settings.EMERGENCY_ACCESS_HOURS
    if not 1 <= hours <= longest:
        raise InvalidInput(f"Choose between 1 and {longest} hours.", field="hours")
    try:
        with transaction.atomic():
            locked = Connection.objects.locked().get(pk=connection.pk)
            roles.require(
                permissions.can_take_emergency_access(actor, locked),
                cause="Only IT admins who can't use the connection can take emergency access.",
                action="Ask the owner to share the connection with you.",
            )
            share = shares.start_emergency(locked, reason, until=now + timedelta(hours=hours), actor=actor, now=now)
            facts = {"reason": reason, "until": str(share.until), "share_id": share.pk}
            event = audit.record(AuditAction.CONNECTION_EMERGENCY_ACCESS, locked, actor=actor, at=now, changes=facts)
            _alarm(share, event.pk, actor=actor, now=now)
            return share
    except Connection.DoesNotExist as gone:
        raise InvalidInput("This connection has been removed in the meantime.") from gone
    except IntegrityError as twice:
        raise AlreadyExists("You can use this connection already.") from twice


def _alarm(share: Share, event: int, *, actor: User, now: datetime) -> None:
    connection = share.connection
    message = alerts.Message(
        subject=f"Emergency access: {actor} can use {connection}",
        paragraphs=(f"{actor} ({actor.username}) took emergency access.", f"Reason: {share.emergency_reason}"),
        path=f"/connections/{connection.pk}/",
        button="View connection",
        why="You received this email because you own this connection, or you are an IT admin or auditor.",
        facts=(
            ("Connection", connection.name),
            ("Owner", str(connection.owner)),
            ("Until", f"{share.until:%Y-%m-%d %H:%M} UTC"),
        ),
        tone="broken",
    )
    owner = connection.owner.contact
    people = [*querysets.it_admins(), *querysets.auditors(), *([owner] if owner is not None else [])]
    alerts.notify(people, message, about=f"emergency:{event}", now=now, is_alarm=True)
