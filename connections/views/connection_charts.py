"""The charts on a connection's page: its history, its next expirations, and its use by key."""

from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.urls import reverse

from connections import audit_labels, presentation
from connections.access import permissions, querysets
from connections.charts import BarChart, Moment, Timeline, day_labels, per_day
from connections.models import Connection, User
from connections.models.audit import AuditAction
from connections.services.expiry.forecast import ForecastSummary
from connections.services.operations import daily_figures

DAYS = 30
MOST_KEYS = 5  # with colours of their own; the other keys are added up
MOST_MOMENTS = 20
# Events with a lasting effect on a connection, with their tone. Tests and token requests are not included.
_LIFE = {
    AuditAction.CONNECTION_CREATED: presentation.WAITING,
    AuditAction.CONNECTION_CONNECTED: presentation.OK,
    AuditAction.CONNECTION_RECONNECTED: presentation.OK,
    AuditAction.CONNECTION_HEALED: presentation.OK,
    AuditAction.CONNECTION_ENABLED: presentation.OK,
    AuditAction.CONNECTION_FLAGGED: presentation.BROKEN,
    AuditAction.CONNECTION_SIGN_IN_FAILED: presentation.WARNING,
    AuditAction.CONNECTION_DISABLED: presentation.OFF,
    AuditAction.CONNECTION_HANDED_OVER: presentation.WAITING,
    AuditAction.CONNECTION_HAND_OVER_COMPLETED: presentation.OK,
}


def life(user: User, connection: Connection, now: datetime) -> Timeline:
    """Return a timeline of the last events that changed the connection, from its creation until now."""
    events = querysets.history_of(user, connection).filter(action__in=_LIFE).order_by("-pk")[:MOST_MOMENTS]
    rows = sorted(events, key=lambda event: (event.at, event.pk))
    moments = [Moment(row.at, _sentence(row.action, row.actor_name), _LIFE[AuditAction(row.action)]) for row in rows]
    if not any(row.action == AuditAction.CONNECTION_CREATED for row in rows):
        moments.insert(0, Moment(connection.created_at, "Created", presentation.WAITING))
    return Timeline("life", "Life of the connection", connection.created_at, now, now, tuple(moments))


def _sentence(action: str, actor_name: str) -> str:
    words = audit_labels.action_label(action).partition(": ")[2].capitalize()
    who = actor_name.partition(" <")[0]
    return f"{words} by {who}" if who else words


def expirations(outlook: ForecastSummary, now: datetime) -> Timeline | None:
    """Return a timeline of the next expirations; None if there are none. It spans 30 days, 90 days or a year."""
    ahead = [forecast for forecast in outlook.forecasts if forecast.at > now]
    if not ahead:
        return None
    last = max(forecast.at for forecast in ahead)
    end = now + next((timedelta(days=days) for days in (30, 90) if last <= now + timedelta(days=days)), timedelta(365))
    moments = tuple(Moment(forecast.at, forecast.cause, presentation.WARNING) for forecast in ahead)
    return Timeline("expirations", "Next expirations", now, max(end, last), now, moments)


def use(user: User, connection: Connection, now: datetime) -> dict[str, Any]:
    """Return recent token requests and a chart of them.

    People who manage or oversee the connection see all requests. People who may only use it see the requests of their
    own keys, without the names and addresses of other keys, and no chart.
    """
    sees_all = permissions.can_reconnect(user, connection) or permissions.can_read_registry(user)
    fetches = connection.fetches.all() if sees_all else connection.fetches.filter(key__owner=user)
    return {
        "sees_all_use": sees_all,
        "may_use": permissions.can_fetch_token(user, connection),
        "token_url": settings.PORTAL_URL + reverse("api:fetch_token", args=[connection.pk]),
        "use": _chart(connection, now) if sees_all else None,
        "fetches": list(fetches.values("key_name", "owner_name", "minute", "address", "count", "reference")[:10]),
    }


def _chart(connection: Connection, now: datetime) -> BarChart:
    days = daily_figures.last_days(DAYS, now)
    by_key = daily_figures.use_by_key(connection.pk, days)
    names = sorted(by_key, key=lambda name: (-sum(by_key[name].values()), name))
    series = [per_day(days, name, f"key-{number}", by_key[name]) for number, name in enumerate(names[:MOST_KEYS], 1)]
    if rest := names[MOST_KEYS:]:
        others: dict[date, int] = {}
        for name in rest:
            for day, times in by_key[name].items():
                others[day] = others.get(day, 0) + times
        series.append(per_day(days, f"{len(rest)} other keys", presentation.OFF, others))
    title = "Token requests by key, last 30 days"
    return BarChart("use", title, day_labels(days), tuple(series), empty="No token requests in the last 30 days.")
