"""Everything that expires within the next year, by week and month."""

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import addressing, presentation
from connections.access import permissions, querysets, roles
from connections.charts import PRIMARY, BarChart, per_day
from connections.models import AppCredential, Connection, Share, User
from connections.services.expiry import calendar, credential_expiry
from connections.services.expiry.calendar import Expiration, Expirations
from connections.services.expiry.forecast import Reason
from connections.views import list_pages

KINDS = (
    (Reason.CREDENTIAL.value, "Secrets and certificates"),
    (Reason.SIGN_IN.value, "Sign-ins limited by policy"),
    (Reason.IDLE.value, "Inactive connections"),
    (Reason.SHARE.value, "Shares"),
    (Reason.KEY.value, "API keys"),
)
STOPS = "stops"
MONTHS = 12
MOST_SHARES = 5000  # shares that are considered for a member
WEEKS_BACK, WEEKS_AHEAD = 4, 53
MOST_UNDATED = 20  # secrets listed without a date


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show all expirations to IT admins and auditors. Others see those of their own connections, shares and keys."""
    user = roles.current_user(request.user)
    tenants = [(str(pk), name) for pk, name in querysets.visible_tenants(user).values_list("pk", "name")]
    filters = list_pages.Filters(
        request,
        choices=(
            list_pages.Choice("kind", "Type", KINDS, _unchanged),
            list_pages.Choice("tenant", "Tenant", tenants, _unchanged),
            list_pages.Choice("effect", "Impact", ((STOPS, "Affects connections"),), _unchanged),
        ),
    )
    now = timezone.now()
    chosen = {choice.name: choice.value for choice in filters.choices}
    parts = list(_parts(user, chosen["kind"], now))
    expirations = [expiration for part in parts for expiration in part.expirations if _matches(expiration, chosen)]
    expirations.sort(key=lambda expiration: expiration.at)
    periods = list(_periods(expirations, now, user))
    context = {
        "filters": filters,
        "periods": periods,
        "months": _months(periods, now),
        "chart": _chart(expirations, now),
        "is_cut": any(part.is_cut for part in parts),
        "most": calendar.MOST,
        "undated": _undated(user),
        "sees_all": permissions.can_read_registry(user),
        "now": now,
    }
    return render(request, "expirations/index.html", context)


def _undated(user: User) -> list[AppCredential]:
    """Return secrets whose expiration date IT admins still have to enter."""
    if not permissions.can_read_registry(user):
        return []
    return credential_expiry.without_date(querysets.visible_app_registrations(user), limit=MOST_UNDATED)


def _unchanged(queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
    """Return all rows. _parts and _matches do the filtering, because the rows come from several tables."""
    return queryset


def _matches(expiration: Expiration, chosen: dict[str, str]) -> bool:
    app = expiration.app_registration
    if chosen["tenant"] and (app is None or str(app.tenant_id) != chosen["tenant"]):
        return False
    return not chosen["effect"] or expiration.stops > 0


def _parts(user: User, kind: str, now: datetime) -> Iterator[Expirations]:
    connections = querysets.visible_connections(user)
    sees_all = permissions.can_read_registry(user)
    if kind in ("", Reason.CREDENTIAL):
        apps = querysets.visible_app_registrations(user)
        if not sees_all:
            apps = apps.filter(pk__in=connections.order_by().values("app_registration"))
        yield calendar.of_credentials(apps, connections, now=now, in_detail=sees_all)
        if sees_all:
            yield calendar.of_sign_in_secret(now=now)
    if kind in ("", Reason.SIGN_IN, Reason.IDLE):
        both = calendar.of_connections(connections, now=now)
        yield Expirations([row for row in both.expirations if kind in ("", row.reason)], both.is_cut)
    if kind in ("", Reason.SHARE):
        shares = Share.objects.all()
        if not sees_all:
            own = shares.active(now).filter(connection__owner=user).order_by().values_list("pk", flat=True)
            ids = own.union(querysets.shares_with(user).order_by().values_list("pk", flat=True))
            # Pass a list, because PostgreSQL would otherwise read all shares in the order of their dates.
            shares = shares.filter(pk__in=list(ids[:MOST_SHARES]))
        yield calendar.of_shares(shares, now=now)
    if kind in ("", Reason.KEY):
        yield calendar.of_keys(querysets.visible_keys(user), now=now)


def _periods(expirations: list[Expiration], now: datetime, user: User) -> Iterator[dict[str, Any]]:
    """Group expirations into periods: past, this week, next week, then months. Each row includes who must act."""
    today = timezone.localtime(now).date()
    next_monday = today - timedelta(days=today.weekday()) + timedelta(days=7)
    # "This week" and "Next week" may already include the first days of this month.
    last_split_month = (next_monday + timedelta(days=6)).replace(day=1)

    def period(expiration: Expiration) -> tuple[str, str]:
        day = timezone.localtime(expiration.at).date()
        if expiration.at <= now:
            return "Expired", "over"
        if day < next_monday:
            return "This week", "this-week"
        if day < next_monday + timedelta(days=7):
            return "Next week", "next-week"
        later = "Later in " if day.replace(day=1) <= last_split_month else ""
        return f"{later}{day:%B %Y}", f"{day:%Y-%m}"

    for (title, anchor), group in itertools.groupby(expirations, key=period):
        rows = [(expiration, _assignee(expiration, user), _action(expiration, user)) for expiration in group]
        yield {"title": title, "anchor": anchor, "rows": rows}


def _assignee(expiration: Expiration, user: User) -> str:
    """Return who must act; "" if no action is needed."""
    if expiration.who == Connection.Who.OWNER:
        owner = _owner(expiration)
        if owner == user:
            return "You"
        return "IT admins" if owner is not None and owner.is_service else str(owner or "Owner")
    return "IT admins" if expiration.who == Connection.Who.IT_ADMIN else ""


def _action(expiration: Expiration, user: User) -> str:
    return addressing.speak_to(addressing.OWNER if _owner(expiration) == user else "", expiration.action)


def _owner(expiration: Expiration) -> User | None:
    owned = expiration.key or expiration.connection
    return owned.owner if owned else None


def _chart(expirations: list[Expiration], now: datetime) -> BarChart:
    """Return a chart of the expirations per week for the next year. Past ones are in the weeks before today."""
    today = timezone.localtime(now).date()
    monday = today - timedelta(days=today.weekday())
    weeks = [monday + timedelta(weeks=number) for number in range(-WEEKS_BACK, WEEKS_AHEAD)]
    counts: dict[bool, Counter[date]] = {True: Counter(), False: Counter()}
    for expiration in expirations:
        day = timezone.localtime(expiration.at).date()
        counts[expiration.stops > 0][max(day - timedelta(days=day.weekday()), weeks[0])] += 1
    series = (
        per_day(weeks, "Affects connections", presentation.WARNING, counts[True]),
        per_day(weeks, "Other", PRIMARY, counts[False]),
    )
    labels = tuple(f"{week.day} {week:%b %Y}" for week in weeks)
    title = "Expirations by week"
    return BarChart("year", title, labels, series, {WEEKS_BACK: "Today"}, "Today", "off", "Week from", is_sparse=True)


def _months(periods: list[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Return the next twelve months. The first one includes past dates. ``first`` is an anchor on the page."""
    first_day = timezone.localtime(now).date().replace(day=1)
    by_month: dict[date, list[tuple[str, Expiration]]] = {}
    for period in periods:
        for expiration, *_ in period["rows"]:
            month = max(timezone.localtime(expiration.at).date().replace(day=1), first_day)
            by_month.setdefault(month, []).append((period["anchor"], expiration))
    months = []
    for _ in range(MONTHS):
        rows = by_month.get(first_day, [])
        month_row = {
            "name": f"{first_day:%b}",
            "year": f"{first_day:%Y}",
            "count": len(rows),
            "stops": sum(1 for _, expiration in rows if expiration.stops),
            "first": rows[0][0] if rows else "",
        }
        months.append(month_row)
        first_day = (first_day + timedelta(days=31)).replace(day=1)
    return months
