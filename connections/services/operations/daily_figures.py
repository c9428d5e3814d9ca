"""Daily figures (UTC) for charts, so that no page counts connections, events or token requests itself.

A run writes the figures of today and of the days since the last run. Each day is counted anew, so a run may be
repeated. Only refreshes leave no rows to count later, so each sweep adds its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db import connection as database
from django.db import transaction
from django.db.models import Count, Sum

from connections import effective_status
from connections.models import (
    AccessReview,
    ApiKey,
    AppCredential,
    AuditEvent,
    DailyFigure,
    DailyTopKey,
    DailyUse,
    Incident,
    ReviewItem,
    Share,
    TokenFetch,
)
from connections.services.operations import status_counts

MISSED_DAYS = 31  # a run goes back at most this many days to count missed ones
EXPIRY_WINDOWS = (7, 30, 90)  # days
TOP_KEYS = 10
USE_DAYS = 92  # the use of single connections is kept for at most this long, because there may be many rows
REVIEWS = 5  # running access reviews whose progress is counted

TOKEN_REQUESTS, REFRESHES, FAILED_REFRESHES = "token_requests", "refreshes", "failed_refreshes"
INCIDENTS_OPENED, INCIDENTS_RESOLVED = "incidents_opened", "incidents_resolved"
EVENTS, DENIALS = "events", "denials"
STATUS, ACTION, EXPIRING, REVIEW = "status:", "action:", "expiring:", "review:"  # prefixes

# Plain SQL, because the ORM has no INSERT … SELECT. Deleted keys and connections keep their ids in these columns.
_WRITE_USE = f"""
INSERT INTO {DailyUse._meta.db_table} (day, connection_ref, key_ref, key_name, owner_name, requests)
SELECT %s, connection_ref, key_ref, MAX(key_name), MAX(owner_name), SUM(count)
FROM {TokenFetch._meta.db_table}
WHERE minute >= %s AND minute < %s AND connection_ref IS NOT NULL AND key_ref IS NOT NULL
GROUP BY connection_ref, key_ref ORDER BY connection_ref, key_ref
ON CONFLICT (connection_ref, day, key_ref) DO UPDATE
SET requests = excluded.requests, key_name = excluded.key_name, owner_name = excluded.owner_name
"""  # noqa: S608 - names of our own tables
_ADD = f"""
INSERT INTO {DailyFigure._meta.db_table} (day, name, value) VALUES (%s, %s, %s)
ON CONFLICT (day, name) DO UPDATE SET value = {DailyFigure._meta.db_table}.value + excluded.value
"""  # noqa: S608


def update(*, now: datetime) -> None:
    """Write the figures of today and of all days since the last run, and delete those older than STATISTICS_DAYS."""
    today = day_of(now)
    for day in _days_to_write(today):
        with transaction.atomic():
            _write_day(day)
    _write_figures(today, _present_figures(now))
    _prune(today)


def count_refreshes(*, renewed: int, failed: int, now: datetime) -> None:
    """Add a sweep's results to today's figures."""
    for name, times in ((REFRESHES, renewed), (FAILED_REFRESHES, failed)):
        if times:
            with database.cursor() as cursor:
                cursor.execute(_ADD, [_stored(day_of(now)), name, times])


def day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def last_days(number: int, now: datetime) -> list[date]:
    """Return the last ``number`` days up to today, the oldest first."""
    return [day_of(now) - timedelta(days=back) for back in reversed(range(number))]


def read(days: list[date], names: Iterable[str] = (), *, prefix: str = "") -> dict[str, dict[date, int]]:
    """Return the stored figures with these names or this prefix, by name and day. Omits days that were not counted."""
    rows = DailyFigure.objects.filter(day__gte=days[0], day__lte=days[-1])
    rows = rows.filter(name__startswith=prefix) if prefix else rows.filter(name__in=list(names))
    figures: dict[str, dict[date, int]] = {}
    for name, day, value in rows.values_list("name", "day", "value"):
        figures.setdefault(name.removeprefix(prefix), {})[day] = value
    return figures


def latest(prefix: str) -> dict[str, int]:
    """Return the newest stored figures with this prefix."""
    newest = DailyFigure.objects.filter(name__startswith=prefix).order_by("-day").values_list("day", flat=True).first()
    rows = DailyFigure.objects.filter(name__startswith=prefix, day=newest) if newest else DailyFigure.objects.none()
    return {name.removeprefix(prefix): value for name, value in rows.values_list("name", "value")}


def use_by_key(connection_pk: int, days: list[date]) -> dict[str, dict[date, int]]:
    """Return how often each key requested the connection's tokens, by key name and day."""
    rows = DailyUse.objects.filter(connection_ref=connection_pk, day__gte=days[0], day__lte=days[-1])
    use: dict[str, dict[date, int]] = {}
    for name, day, requests in rows.values_list("key_name", "day").annotate(times=Sum("requests")):
        use.setdefault(name, {})[day] = requests
    return use


def use_of(connection_pks: Iterable[int], days: list[date]) -> dict[date, int]:
    """Return how often tokens of these connections were requested, by day."""
    rows = DailyUse.objects.filter(connection_ref__in=list(connection_pks), day__gte=days[0], day__lte=days[-1])
    return dict(rows.order_by().values_list("day").annotate(Sum("requests")))


def top_keys(now: datetime) -> list[DailyTopKey]:
    """Return the keys with the most token requests on the last day with token requests."""
    newest = DailyTopKey.objects.order_by("-day").values_list("day", flat=True).first()
    return list(DailyTopKey.objects.filter(day=newest).order_by("rank")) if newest else []


def _days_to_write(today: date) -> Iterator[date]:
    # When the last day was written, it was not over yet, so it is written again.
    last = DailyFigure.objects.filter(name=TOKEN_REQUESTS).order_by("-day").values_list("day", flat=True).first()
    day = max(last or date.min, today - timedelta(days=MISSED_DAYS))
    while day <= today:
        yield day
        day += timedelta(days=1)


def _write_day(day: date) -> None:
    start = datetime.combine(day, time.min, UTC)
    end = start + timedelta(days=1)
    fetches = TokenFetch.objects.filter(minute__gte=start, minute__lt=end).order_by()
    events = AuditEvent.objects.filter(at__gte=start, at__lt=end).order_by()
    actions = dict(events.values_list("action").annotate(Count("pk")))
    figures = {
        TOKEN_REQUESTS: fetches.aggregate(sum=Sum("count"))["sum"] or 0,
        INCIDENTS_OPENED: Incident.objects.filter(opened_at__gte=start, opened_at__lt=end).count(),
        INCIDENTS_RESOLVED: Incident.objects.filter(closed_at__gte=start, closed_at__lt=end).count(),
        EVENTS: sum(actions.values()),
        DENIALS: events.exclude(outcome=AuditEvent.Outcome.DONE).count(),
        **{f"{ACTION}{action}": times for action, times in actions.items()},
    }
    _write_figures(day, figures)
    moments = [database.ops.adapt_datetimefield_value(moment) for moment in (start, end)]
    with database.cursor() as cursor:
        cursor.execute(_WRITE_USE, [_stored(day), *moments])
    _write_top_keys(day)


def _write_top_keys(day: date) -> None:
    keys = DailyUse.objects.filter(day=day).order_by().values_list("key_ref", "key_name", "owner_name")
    top = keys.annotate(times=Sum("requests")).order_by("-times", "key_ref")[:TOP_KEYS]
    rows = [
        DailyTopKey(day=day, rank=rank, key_name=name, owner_name=owner, requests=times)
        for rank, (_, name, owner, times) in enumerate(top, start=1)
    ]
    columns = ["key_name", "owner_name", "requests"]
    DailyTopKey.objects.bulk_create(rows, update_conflicts=True, unique_fields=["day", "rank"], update_fields=columns)


def _present_figures(now: datetime) -> Mapping[str, int]:
    """Count the current states that leave no rows to count later: connections by status, and what expires soon."""
    counts = status_counts.of_organization()
    figures = {f"{STATUS}{state.value}": counts[state] for state in effective_status.EffectiveStatus}
    for days in EXPIRY_WINDOWS:
        window: dict[str, Any] = {"expires_at__gt": now, "expires_at__lte": now + timedelta(days=days)}
        figures[f"{EXPIRING}credentials:{days}"] = AppCredential.objects.live().filter(**window).count()
        figures[f"{EXPIRING}keys:{days}"] = ApiKey.objects.filter(revoked_at=None, **window).count()
        until = now + timedelta(days=days)
        figures[f"{EXPIRING}shares:{days}"] = Share.objects.active(now).filter(until__lte=until).count()
    for review in AccessReview.objects.filter(closed_at=None, cancelled_at=None).order_by("due_at", "pk")[:REVIEWS]:
        figures[f"{REVIEW}{review.pk}:total"] = review.items.count()
        figures[f"{REVIEW}{review.pk}:answered"] = review.items.exclude(decision=ReviewItem.Decision.OPEN).count()
    return figures


def _write_figures(day: date, figures: Mapping[str, int]) -> None:
    rows = [DailyFigure(day=day, name=name, value=value) for name, value in sorted(figures.items())]
    DailyFigure.objects.bulk_create(rows, update_conflicts=True, unique_fields=["day", "name"], update_fields=["value"])


def _prune(today: date) -> None:
    kept = settings.STATISTICS_DAYS
    for model, days in ((DailyFigure, kept), (DailyTopKey, kept), (DailyUse, min(kept, USE_DAYS))):
        model._default_manager.filter(day__lt=today - timedelta(days=days)).delete()


def _stored(day: date) -> Any:
    return database.ops.adapt_datefield_value(day)
