"""How many connections and shares violate the policy, counted by a worker, so that no page has to check them all."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from connections.models import DailyFigure, Policy
from connections.services.governance import violations
from connections.services.policy import evaluate

INTERVAL = timedelta(hours=1)  # unless the policy changes, because all connections are read
_CONNECTIONS, _SHARES, _AT = "violations:connections", "violations:shares", "violations:counted_at"


@dataclass(frozen=True, slots=True)
class ViolationFigures:
    """The numbers, and when they were counted (UTC)."""

    connections: int
    shares: int
    counted_at: datetime

    @property
    def total(self) -> int:
        return self.connections + self.shares


def latest() -> ViolationFigures | None:
    """Return the newest numbers; None if nobody has counted yet. Takes one query."""
    rows = DailyFigure.objects.filter(name__in=(_CONNECTIONS, _SHARES, _AT)).order_by("-day")
    values: dict[str, int] = {}
    for name, value in rows.values_list("name", "value")[:3]:
        values.setdefault(name, value)
    if len(values) < 3:
        return None
    return ViolationFigures(values[_CONNECTIONS], values[_SHARES], datetime.fromtimestamp(values[_AT], UTC))


def update(*, now: datetime) -> None:
    """Count again if the last count is older than INTERVAL or than the policy. Safe to repeat."""
    known = latest()
    if known is not None and now - known.counted_at < INTERVAL and not _changed_since(known.counted_at):
        return
    impact = violations.impact(evaluate.load_policies(), now=now, keep=0)
    figures = {_CONNECTIONS: impact.connection_count, _SHARES: impact.share_count, _AT: int(now.timestamp())}
    rows = [DailyFigure(day=now.astimezone(UTC).date(), name=name, value=value) for name, value in figures.items()]
    DailyFigure.objects.bulk_create(rows, update_conflicts=True, unique_fields=["day", "name"], update_fields=["value"])


def _changed_since(moment: datetime) -> bool:
    # The time of the count is stored in whole seconds, so a change within its second is counted again.
    return Policy.objects.filter(changed_at__gte=moment).exists()
