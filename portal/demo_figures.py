"""The figures of the demo organisation's last month, so that its charts show more than the day it was created."""

from datetime import datetime, timedelta

from connections.models import ApiKey, DailyFigure, DailyUse
from connections.services.operations import daily_figures

DAYS = 29  # before today, which the portal counts itself
FAILURES = {6: 2, 7: 1, 17: 1}  # connections that didn't work, by days ago


def write(*, now: datetime) -> None:
    """Write the figures of past days. Every demo gets the same ones."""
    keys = list(ApiKey.objects.order_by("pk"))
    figures, uses = [], []
    for ago in range(1, DAYS + 1):
        day = daily_figures.day_of(now) - timedelta(days=ago)
        is_weekend = day.weekday() >= 5
        used = [(key, connection, _requests(ago, is_weekend, key.pk)) for key in keys for connection in (1, 2)]
        uses += [
            DailyUse(
                day=day,
                connection_ref=connection,
                key_ref=key.pk,
                key_name=key.name,
                owner_name=str(key.owner),
                requests=requests,
            )
            for key, connection, requests in used
        ]
        values = _values(ago, requests=sum(requests for _, _, requests in used))
        figures += [DailyFigure(day=day, name=name, value=value) for name, value in values.items()]
    DailyFigure.objects.bulk_create(
        figures, update_conflicts=True, unique_fields=["day", "name"], update_fields=["value"]
    )
    DailyUse.objects.bulk_create(uses)


def _requests(ago: int, is_weekend: bool, key: int) -> int:
    return (4 if is_weekend else 18) + ago * key * 5 % 7


def _values(ago: int, *, requests: int) -> dict[str, int]:
    failing, growth = FAILURES.get(ago, 0), (DAYS - ago) // 10
    return {
        daily_figures.TOKEN_REQUESTS: requests,
        daily_figures.REFRESHES: 24 * (2 + growth) - failing * 5,
        daily_figures.FAILED_REFRESHES: failing * 5,
        daily_figures.INCIDENTS_OPENED: 1 if failing == 1 else 0,
        daily_figures.EVENTS: 8 + ago * 3 % 11,
        daily_figures.DENIALS: ago % 3,
        f"{daily_figures.STATUS}active": 2 + growth - min(failing, 2),
        f"{daily_figures.STATUS}reconnect_needed": failing,
    }
