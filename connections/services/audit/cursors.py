"""How far each destination outside the database has got. The row of a destination is its cursor and its lease.

The cursor is advanced only after a success. If a worker is killed in between, the same is sent twice, but nothing is lost.
"""

from datetime import datetime, timedelta

from django.db.models import F, Q, QuerySet

from connections.models import SealPublication

LEASE = timedelta(minutes=5)  # longer than sending one batch can take
WAITS = (15, 30, 60, 120, 300, 900, 1800, 3600)  # seconds until the next attempt; the last one repeats


def of(destination: str) -> SealPublication:
    return SealPublication.objects.get_or_create(place=destination)[0]


def claim(cursor: SealPublication, now: datetime) -> bool:
    """Lease the destination to the caller. False if another worker has it or has advanced it, or it isn't due yet."""
    due = _unchanged(cursor).filter(Q(next_attempt_at=None) | Q(next_attempt_at__lte=now))
    return bool(due.update(next_attempt_at=now + LEASE))


def advance(cursor: SealPublication, upto: int, now: datetime) -> None:
    _unchanged(cursor).update(upto=upto, published_at=now, attempts=0, next_attempt_at=None, last_error="")


def postpone(cursor: SealPublication, problem: str, now: datetime) -> None:
    wait = timedelta(seconds=WAITS[min(cursor.attempts, len(WAITS) - 1)])
    _unchanged(cursor).update(attempts=F("attempts") + 1, next_attempt_at=now + wait, last_error=problem[:300])


def _unchanged(cursor: SealPublication) -> QuerySet[SealPublication]:
    return SealPublication.objects.filter(pk=cursor.pk, upto=cursor.upto)
