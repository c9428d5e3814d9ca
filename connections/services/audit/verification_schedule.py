"""The schedule of verifications: the newest seals every hour, and the whole chain every week.

Only signed verifications count, so deleted or forged rows lead to more verifications, never to fewer.
"""

from datetime import datetime, timedelta

from django.db.models import Q

from connections.models import AuditVerification
from connections.services.audit import guards, published, verification, verification_records

HOURLY = timedelta(hours=1)
WEEKLY = timedelta(days=7)
KEPT = timedelta(days=30)  # how long hourly verifications that found nothing are kept
UNFINISHED = timedelta(hours=2)  # an unfinished verification older than this does not prevent a new one


def queue_due(now: datetime) -> AuditVerification | None:
    """Queue a verification if one is due, and delete old records. Returns the new verification, or None.

    After a break was found, the whole chain is verified every hour until it is intact. Missing triggers or missing
    published seals make a verification due at once.
    """
    is_young = Q(asked_at__gt=now - UNFINISHED, asked_at__lte=now)
    is_running = Q(claimed_until__gt=now, claimed_until__lte=now + 2 * verification.LEASE)
    waiting = AuditVerification.objects.filter(is_young | is_running, finished_at=None)
    if any(verification_records.is_signed(run) for run in waiting):
        return None
    latest = verification_records.latest(now)
    is_hour_over = latest.any is None or latest.any.finished_at is None or latest.any.finished_at <= now - HOURLY
    if not is_hour_over and (latest.broken is not None or not _needs_attention()):
        return None
    AuditVerification.objects.filter(state=verification.State.INTACT, since__gt=0, finished_at__lt=now - KEPT).delete()
    whole = latest.whole_intact
    is_whole_due = whole is None or whole.finished_at is None or whole.finished_at <= now - WEEKLY
    since = 0 if is_whole_due or latest.broken or latest.intact is None else latest.intact.upto
    return verification.create(None, now, since=since)


def _needs_attention() -> bool:
    return bool(guards.unguarded_tables() or published.seals_missing_here())
