"""Remove old sealed rows from the audit trail, old alerts that were delivered or given up, and old notifications.

Rows are removed seal by seal, the oldest first. The seals stay and record how many events of each kind there were, so
the chain can still be verified. Rows that do not match their seal are never removed, because they are evidence.
"""

from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection as database
from django.db import transaction
from django.db.models import Q

from connections import audit
from connections.models import AuditSeal, AuditSealing, Delivery, Notification
from connections.models.audit import AuditAction
from connections.services.audit import pruning, streaming, verification_checks
from connections.services.sharing import history

logger = structlog.get_logger(__name__)

_LONGEST_WARNING = timedelta(days=90)
NOTIFICATIONS_FOR = timedelta(days=180)  # at most, in the portal
TOGETHER = 50  # seals whose rows are removed in one transaction


def prune(now: datetime) -> int:
    """Remove audit rows and alerts older than AUDIT_RETENTION_DAYS (0: keep all). Returns the number of audit rows.

    Notifications in the portal are kept for NOTIFICATIONS_FOR at most.
    """
    days = settings.AUDIT_RETENTION_DAYS
    _prune_notifications(now - (min(timedelta(days=days), NOTIFICATIONS_FOR) if days > 0 else NOTIFICATIONS_FOR))
    if days <= 0:
        return 0
    removed = 0
    while (count := _prune_some(days, now)) is not None:
        removed += count
    _prune_alerts(now - timedelta(days=days))
    return removed


def _prune_alerts(before: datetime) -> None:
    """Remove finished alerts, but not while their subject is open: their keys prevent duplicates."""
    finished = Delivery.objects.filter(Q(delivered_at__lt=before) | Q(given_up_at__lt=before), next_attempt_at=None)
    over = Q(incident=None) | Q(incident__closed_at__lt=before)
    ended = Q(credential=None) | Q(credential__retired_at__isnull=False) | Q(credential__expires_at__lt=before)
    while pks := list(finished.filter(over, ended).order_by("pk").values_list("pk", flat=True)[:1000]):
        Delivery.objects.filter(pk__in=pks).delete()


def _prune_notifications(before: datetime) -> None:
    """Remove old notifications, but not while their incident is open: their keys prevent duplicates."""
    # A credential warns about its end more than once, so it keeps the keys of its warnings longer.
    no_warning_follows = ~Q(event=Delivery.Event.EXPIRY) | Q(created_at__lt=before - _LONGEST_WARNING)
    over = Q(incident=None) | Q(incident__closed_at__lt=before)
    old = Notification.objects.filter(over, no_warning_follows, created_at__lt=before)
    while pks := list(old.order_by("created_at").values_list("pk", flat=True)[:1000]):
        Notification.objects.filter(pk__in=pks).delete()


def _prune_some(days: int, now: datetime) -> int | None:
    """Remove the rows of the next few seals. Returns how many, or None if nothing is left to remove."""
    first = pruning.last_pruned_seal()
    seals = AuditSeal.objects.defer("marks").filter(number__gt=first)
    if (arrived := streaming.arrived_upto()) is not None:  # what the stream has still to send is kept
        seals = seals.filter(number__lte=arrived)
    old = list(pruning.old_enough(seals.order_by("number")[:TOGETHER], before=now - timedelta(days=days)))
    if not old:
        return None
    last = old[-1]
    reports = verification_checks.check_seals(since=first, upto=last.number)
    findings = [finding for report in reports for finding in report.findings]
    if findings:
        logger.error("retention stopped: the audit trail is broken", seal=findings[0].seal, finding=findings[0].what)
        return None
    with transaction.atomic():
        # The row is also the lock: a second worker waits here and then sees that the work is done.
        state = AuditSealing.objects.select_for_update().get(pk=1)
        if pruning.last_pruned_seal() != first:
            return 0
        return _remove(state, first, last, days=days, now=now)


def _remove(state: AuditSealing, first: int, last: AuditSeal, *, days: int, now: datetime) -> int:
    state.retention_open = True
    state.save(update_fields=["retention_open"])
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute("SELECT set_config('portal.audit_retention', 'on', true)")
        cursor.execute("DELETE FROM connections_auditevent WHERE id <= %s", [last.events_upto])
        events = int(cursor.rowcount)
        cursor.execute("DELETE FROM connections_tokenfetch WHERE seal <= %s", [last.number])
        fetches = int(cursor.rowcount)
        if database.vendor == "postgresql":
            cursor.execute("SELECT set_config('portal.audit_retention', 'off', true)")
    until = pruning.covered_until(last.number) or last.covers_until
    history.prune(until)
    state.retention_open = False
    state.save(update_fields=["retention_open"])
    facts = pruning.facts_of_removal(last, days=days, at=now) | {"seals": f"{first + 1} to {last.number}"}
    facts |= {"until": until.isoformat(), "events": events, "token_fetches": fetches}
    audit.record(AuditAction.AUDIT_PRUNED, audit.TRAIL, actor=None, changes=facts, at=now)
    return events + fetches
