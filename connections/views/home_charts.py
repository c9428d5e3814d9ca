"""The charts on the home pages. They only use the daily figures."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from connections import effective_status, presentation
from connections.charts import PRIMARY, BarChart, day_labels, per_day
from connections.effective_status import EffectiveStatus
from connections.models import Connection
from connections.services.operations import daily_figures, status_counts

DAYS = 30

EXPIRY_KINDS = (("credentials", "Secrets and certificates"), ("keys", "API keys"), ("shares", "Shares"))
# Groups of states as shown in the chart: label, tone, states.
_HEALTH = (
    ("Working", presentation.OK, (EffectiveStatus.ACTIVE,)),
    ("Not working", presentation.BROKEN, effective_status.BROKEN),
    (
        "Not set up yet",
        presentation.WAITING,
        (*effective_status.AWAITING, EffectiveStatus.APPROVAL_REQUIRED, EffectiveStatus.PENDING),
    ),
    ("Disabled", presentation.OFF, (EffectiveStatus.DISABLED,)),
)


def status_figures() -> dict[str, Any]:
    """Return the number of connections in each state, for the first card."""
    counts = status_counts.of_organization()
    shown = [state for state in EffectiveStatus if counts[state] or state in _ALWAYS_SHOWN]
    return {
        "by_status": [(presentation.status_badge(state), state.value, counts[state]) for state in shown],
        "total": counts.total(),
        "waiting": counts[EffectiveStatus.APP_REJECTED],
        "unfinished": counts[EffectiveStatus.PENDING],
    }


_ALWAYS_SHOWN = (EffectiveStatus.ACTIVE, EffectiveStatus.RECONNECT_NEEDED, EffectiveStatus.CONSENT_NEEDED)


def health(now: datetime) -> BarChart:
    """Return a chart of the states of all connections per day. The incidents opened on a day are shown as marks."""
    days = daily_figures.last_days(DAYS, now)
    names = [f"{daily_figures.STATUS}{state.value}" for state in EffectiveStatus]
    figures = daily_figures.read(days, [*names, daily_figures.INCIDENTS_OPENED])
    opened = figures.get(daily_figures.INCIDENTS_OPENED, {})

    def total(states: Iterable[EffectiveStatus]) -> dict[date, int]:
        columns = [figures.get(f"{daily_figures.STATUS}{state.value}", {}) for state in states]
        return {day: sum(column.get(day, 0) for column in columns) for day in days if any(day in c for c in columns)}

    return BarChart(
        key="health",
        title="Health of all connections, last 30 days",
        columns=day_labels(days),
        series=tuple(per_day(days, label, tone, total(states), missing=None) for label, tone, states in _HEALTH),
        marks={
            number: f"{opened[day]} incident{'' if opened[day] == 1 else 's'} opened"
            for number, day in enumerate(days)
            if opened.get(day)
        },
        mark_label="Incidents opened",
        empty="The portal hasn't recorded a day yet.",
    )


def of_figures(key: str, title: str, lines: Iterable[tuple[str, str, str]], *, now: datetime, empty: str) -> BarChart:
    """Return a chart of stored figures. ``lines`` gives the name, label and tone of each."""
    days = daily_figures.last_days(DAYS, now)
    lines = list(lines)
    figures = daily_figures.read(days, [name for name, _, _ in lines])
    series = tuple(per_day(days, label, tone, figures.get(name, {})) for name, label, tone in lines)
    return BarChart(key, title, day_labels(days), series, empty=empty)


def token_requests(now: datetime) -> BarChart:
    lines = [(daily_figures.TOKEN_REQUESTS, "Token requests", PRIMARY)]
    empty = "No token requests in the last 30 days."
    return of_figures("requests", "Token requests, last 30 days", lines, now=now, empty=empty)


def refreshes(now: datetime) -> BarChart:
    lines = [
        (daily_figures.REFRESHES, "Renewed", presentation.OK),
        (daily_figures.FAILED_REFRESHES, "Rejected by Microsoft", presentation.BROKEN),
    ]
    empty = "No tokens renewed in the last 30 days."
    return of_figures("refreshes", "Renewed tokens, last 30 days", lines, now=now, empty=empty)


def activity(now: datetime) -> BarChart:
    """Return a chart of the audit events per day. Denied and failed ones have their own colour."""
    days = daily_figures.last_days(DAYS, now)
    figures = daily_figures.read(days, [daily_figures.EVENTS, daily_figures.DENIALS])
    denials, events = figures.get(daily_figures.DENIALS, {}), figures.get(daily_figures.EVENTS, {})
    done = {day: max(times - denials.get(day, 0), 0) for day, times in events.items()}
    series = (
        per_day(days, "Done", PRIMARY, done),
        per_day(days, "Denied or failed", presentation.WARNING, denials),
    )
    title = "Activity, last 30 days"
    return BarChart("activity", title, day_labels(days), series, empty="No events in the last 30 days.")


def use_of(connections: Iterable[Connection], now: datetime) -> BarChart:
    """Return a chart of the token requests for these connections."""
    days = daily_figures.last_days(DAYS, now)
    use = daily_figures.use_of([connection.pk for connection in connections], days)
    series = (per_day(days, "Token requests", PRIMARY, use),)
    empty = "No token requests in the last 30 days."
    return BarChart("use", "Use of my connections, last 30 days", day_labels(days), series, empty=empty)


def expiring() -> list[dict[str, Any]]:
    """Return how many credentials, keys and shares expire within 7, 30 and 90 days; [] if not counted yet."""
    counts = daily_figures.latest(daily_figures.EXPIRING)
    if not counts:
        return []
    return [
        {"label": label, "kind": kind, "counts": [counts.get(f"{kind}:{days}", 0) for days in _WINDOWS]}
        for kind, label in EXPIRY_KINDS
    ]


_WINDOWS = daily_figures.EXPIRY_WINDOWS
