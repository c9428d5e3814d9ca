"""Declare that a backup was restored: the audit trail continues, sessions end, and every connection is checked.

The audit trail continues with a seal number above all published ones. Sign-ins, sessions and processes in the backup
may have ended since the backup was made, so none of them is trusted. Bulk actions are stopped, because they may have
been stopped since then.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import InvalidInput
from connections.models import (
    AuditEvent,
    AuditSeal,
    BulkAction,
    BulkItem,
    Connection,
    Incident,
    RunningProcess,
    Session,
    User,
)
from connections.models.audit import AuditAction
from connections.services.audit import published, publishing, restores, sealing, verification
from connections.services.audit.published import PublishedSeal
from connections.services.audit.restores import Restore
from connections.services.incidents import store
from connections.services.notifications import alerts
from connections.services.operations import audit_watch
from connections.services.operations.checks import Result, ok, warning

logger = structlog.get_logger(__name__)

# The doctor reports the effects of a restore for this long.
REPORTED_FOR = timedelta(days=7)
_MOST = 100


def declare(known: Iterable[PublishedSeal], *, actor: User, reason: str, now: datetime) -> Restore:
    """Seal a declaration that the published seals that are missing here were lost in a restore.

    From then on, verification accepts exactly this gap and always reports it. All IT admins and auditors are emailed.
    Raises NotAllowed, or InvalidInput if nothing is missing or this was not a restore.
    """
    reason = _checked(reason, actor)
    with transaction.atomic():
        sealing.lock_sealer(wait=True)
        after, highest = _lost(list(known))
        by = audit.recorded_name(actor)
        facts = {
            "after": after,
            "published": highest.number,
            "published_hash": highest.hash,
            "by": by,
            "reason": reason,
        }
        seal = sealing.seal_restore(facts, now=now)
        restore = Restore.parse(seal)
        if restore is None:
            raise RuntimeError("The seal that was just made carries no valid signature.")
        changes = {"after": after, "published": highest.number, "seal": seal.number, "reason": reason}
        audit.record(AuditAction.AUDIT_RESTORE_DECLARED, audit.TRAIL, actor=actor, changes=changes)
        store.close(audit_watch.BROKEN, now=now)
        verification.create(None, now)
        _distrust(now)
        _tell(str(restore), about=f"restore:{restore.number}", now=now)
    logger.warning("a restore was declared", by=by, after=after, published=highest.number, seal=seal.number)
    facts |= {"seal": seal.number, "hash": seal.hash}
    publishing.send_alarm("restored", facts, message_id=f"audit-restored-{seal.number}-{seal.hash[:12]}", now=now)
    return restore


def declare_without_loss(known: Iterable[PublishedSeal], *, actor: User, reason: str, now: datetime) -> None:
    """Declare a restore after which no published seal is missing, for example because none had been published.

    Raises NotAllowed, or InvalidInput if a published seal is missing.
    """
    reason = _checked(reason, actor)
    with transaction.atomic():
        sealing.lock_sealer(wait=True)
        missing = _missing(list(known))
        if missing:
            text = f"Seal {min(seal.number for seal in missing)} was published and is missing here."
            raise InvalidInput(text, action="Declare the restore without --nothing-lost.")
        event = audit.record(AuditAction.AUDIT_RESTORE_DECLARED, audit.TRAIL, actor=actor, changes={"reason": reason})
        _distrust(now)
        text = f"{audit.recorded_name(actor)} declared on {now:%Y-%m-%d %H:%M} UTC that a backup was restored: {reason}"
        _tell(text, about=f"restore:event:{event.pk}", now=now)
    logger.warning("a restore was declared", by=audit.recorded_name(actor))


def _checked(reason: str, actor: User) -> str:
    roles.require(permissions.can_manage_registry(actor), cause="Only IT admins declare a restore.", action="Ask one.")
    if not reason.strip():
        raise InvalidInput("Say why the backup was restored.", field="reason")
    return reason.strip()


def _distrust(now: datetime) -> None:
    """End all sessions and bulk actions, forget running processes, and make all connections due for a check."""
    Session.objects.all().delete()
    User.objects.update(signed_out_at=now)
    RunningProcess.objects.all().delete()
    running = BulkAction.objects.filter(state=BulkAction.State.RUNNING)
    reason = "A backup was restored while it was in progress."
    for bulk_action in running:
        waiting = bulk_action.items.filter(state=BulkItem.State.WAITING).count()
        changes = {"because": reason, "not_done": waiting, "operation": str(bulk_action.operation)}
        audit.record(AuditAction.BULK_ACTION_STOPPED, bulk_action, actor=None, at=now, changes=changes)
    running.update(state=BulkAction.State.STOPPED, finished_at=now, claimed_until=None, stop_reason=reason)
    Connection.objects.filter(status__in=Connection.KEPT_ALIVE).update(refresh_after=now)


def progress(now: datetime) -> Result:
    """Check for the doctor whether all connections have been checked since the last restore."""
    declared = AuditEvent.objects.filter(action=AuditAction.AUDIT_RESTORE_DECLARED).order_by("-pk").first()
    if declared is None or declared.at < now - REPORTED_FOR:
        return ok("no restore was declared in the last seven days")
    since = f"since the restore of {declared.at:%Y-%m-%d %H:%M} UTC"
    if Connection.objects.filter(status__in=Connection.KEPT_ALIVE, refresh_after__lte=declared.at).exists():
        action = "Wait until the workers have checked them. They stay usable in the meantime."
        return warning(f"some connections haven't been checked {since}", action)
    opened = Incident.objects.filter(closed_at=None, kind=Incident.Kind.ACCOUNT, opened_at__gte=declared.at)
    count = len(opened.values_list("pk")[:_MOST])
    if count:
        many = f"{count}{' or more' if count == _MOST else ''}"
        action = "The owners have been emailed. The page Incidents lists them."
        return warning(f"new sign-ins needed {since}: {many}", action)
    return ok(f"all connections work {since}")


def _lost(known: list[PublishedSeal]) -> tuple[int, PublishedSeal]:
    """Return the number of the last seal before the lost ones, and the highest lost one.

    Raises InvalidInput if this was not a restore.
    """
    missing = _missing(known)
    if not missing:
        text = "All these published seals are here, so there is no restore to declare."
        raise InvalidInput(text, action="If a backup was restored anyway, add --nothing-lost.")
    highest = max(missing, key=lambda seal: seal.number)
    if not highest.continues:
        return _last_before(highest), highest
    reached = published.continued_by(missing, [highest.hash])
    strangers = sorted(seal.number for seal in missing if seal.hash not in reached)
    newest_seal = AuditSeal.objects.filter(hash__in=reached).values_list("number", flat=True).first() or 0
    lowest = min(seal.number for seal in missing)
    if strangers or newest_seal != lowest - 1:
        text = f"Seal {strangers[0] if strangers else lowest} was published, but differs here or is missing."
        raise InvalidInput(f"{text} This isn't a restore: the trail was altered.", action="Run manage.py audit_verify.")
    return newest_seal, highest


def _missing(known: list[PublishedSeal]) -> list[PublishedSeal]:
    """Return the published seals that are not here, except those whose loss was already declared."""
    declared = restores.declared()
    return [
        seal
        for seal, stored in published.with_stored(known)
        if stored != seal.hash and not any(restore.covers(seal.number) for restore in declared)
    ]


def _last_before(highest: PublishedSeal) -> int:
    """Return the number of the newest seal here. Used if only number and hash of the highest published seal are known.

    Raises InvalidInput if another seal has that number.
    """
    newest = sealing.newest_seal()
    if newest is not None and newest.number >= highest.number:
        text = f"The trail already contains a different seal {highest.number}."
        raise InvalidInput(text, action="Name the file of published seals, to identify the lost ones.")
    return newest.number if newest else 0


def _tell(what: str, *, about: str, now: datetime) -> None:
    message = alerts.Message(
        subject="A restore of the portal's database was declared",
        paragraphs=(
            what,
            "What was recorded between the backup and the restore is missing from the audit trail. If you didn't "
            "expect a restore, someone may be hiding a change. Compare the trail with the published seals.",
            "Everyone must sign in to the portal again. The portal is checking all connections: most continue to work. "
            "We email the owners of those that need a new sign-in. What was removed since the backup is back: shares, "
            "API keys and accounts.",
        ),
        path="/audit/seals/",
        button="View seals",
        why="You received this email because you're an IT admin or an auditor.",
        tone="warning",
    )
    people = querysets.overseers().exclude(email="").select_related("alert_choice")
    alerts.notify(people, message, about=about, now=now, is_alarm=True)
