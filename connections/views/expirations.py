"""What expires: a page like a calendar, by week and month, of all that ends within the next year."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections.access import permissions, querysets, roles
from connections.models import AppRegistration, Share, User
from connections.models.sharing import ShareQuerySet
from connections.services.expiry import calendar
from connections.services.expiry.calendar import Expiration, Expirations
from connections.services.expiry.forecast import Reason
from connections.views import list_pages

KINDS = (
    (Reason.CREDENTIAL.value, "Secrets and certificates"),
    (Reason.SIGN_IN.value, "Sign-ins limited by a policy"),
    (Reason.IDLE.value, "Grants nobody uses"),
    (Reason.SHARE.value, "Shares"),
    (Reason.KEY.value, "API keys"),
)
STOPS = "stops"
MONTHS = 12


@dataclass(slots=True)
class Period:
    """A stretch of time with what ends in it."""

    title: str
    anchor: str
    endings: list[Expiration] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Month:
    """One field of the year at a glance. ``first`` is the anchor of the first period with something in it."""

    name: str
    year: str
    count: int
    stops: int
    first: str


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """What ends when: everything for IT admins and auditors, what concerns their own connections for others."""
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        choices=(
            list_pages.Choice("kind", "Kind", KINDS, _unchanged),
            list_pages.Choice("tenant", "Tenant", _tenants(user), _unchanged),
            list_pages.Choice("effect", "Effect", ((STOPS, "Stops something"),), _unchanged),
        ),
    )
    now = timezone.now()
    wanted = {choice.name: choice.value for choice in filters.choices}
    parts = list(_parts(user, wanted["kind"], now))
    found = [ending for part in parts for ending in part.expirations if _fits(ending, wanted)]
    found.sort(key=lambda ending: ending.at)
    periods = list(_periods(found, now))
    context = {
        "filters": filters,
        "periods": periods,
        "months": _months(periods, now),
        "is_cut": any(part.is_cut for part in parts),
        "most": calendar.MOST,
        "sees_all": permissions.can_read_registry(user),
        "now": now,
    }
    return render(request, "expiries/index.html", context)


def _unchanged(queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
    """What ends is put together from several tables, so the filters work on the result."""
    return queryset


def _tenants(user: User) -> list[tuple[str, str]]:
    return [(str(pk), name) for pk, name in querysets.visible_tenants(user).values_list("pk", "name")]


def _fits(ending: Expiration, wanted: dict[str, str]) -> bool:
    app = ending.app_registration
    if wanted["tenant"] and (app is None or str(app.tenant_id) != wanted["tenant"]):
        return False
    return not wanted["effect"] or ending.stops > 0


def _parts(user: User, kind: str, now: datetime) -> Iterator[Expirations]:
    connections = querysets.visible_connections(user)
    if kind in ("", Reason.CREDENTIAL):
        in_detail = permissions.can_read_registry(user)
        apps: QuerySet[AppRegistration] = querysets.visible_app_registrations(user)
        if not in_detail:
            apps = apps.filter(pk__in=connections.order_by().values("app_registration"))
        yield calendar.of_credentials(apps, connections, now=now, in_detail=in_detail)
    if kind in ("", Reason.SIGN_IN, Reason.IDLE):
        both = calendar.of_connections(connections, now=now)
        yield Expirations([ending for ending in both.expirations if kind in ("", ending.reason)], both.is_cut)
    if kind in ("", Reason.SHARE):
        yield calendar.of_shares(_shares(user), now=now)
    if kind in ("", Reason.KEY):
        yield calendar.of_keys(querysets.visible_keys(user), now=now)


def _shares(user: User) -> ShareQuerySet:
    """Everybody's for those who see all; otherwise those of one's own connections, and those with oneself."""
    if permissions.can_read_registry(user):
        return Share.objects.all()
    return Share.objects.filter(Q(connection__owner=user) | Q(pk__in=querysets.shares_with(user)))


# --- Weeks and months -----------------------------------------------------------------------------


def _periods(expirations: list[Expiration], now: datetime) -> Iterator[Period]:
    """What is over, this week, next week, then month by month; only those in which something ends."""
    for period, endings in itertools.groupby(expirations, key=_naming(now)):
        yield Period(*period, list(endings))


def _naming(now: datetime) -> Callable[[Expiration], tuple[str, str]]:
    today = timezone.localtime(now).date()
    monday = today - timedelta(days=today.weekday()) + timedelta(days=7)
    begun = (monday + timedelta(days=6)).replace(day=1)  # the weeks above have taken some days of this month

    def name(ending: Expiration) -> tuple[str, str]:
        day = timezone.localtime(ending.at).date()
        if ending.at <= now:
            return "Already over", "over"
        if day < monday:
            return "This week", "this-week"
        if day < monday + timedelta(days=7):
            return "Next week", "next-week"
        later = "Later in " if day.replace(day=1) <= begun else ""
        return f"{later}{day:%B %Y}", f"{day:%Y-%m}"

    return name


def _months(periods: list[Period], now: datetime) -> list[Month]:
    """The year at a glance, this month first; what is over counts as this month's."""
    this = timezone.localtime(now).date().replace(day=1)
    found: dict[date, list[tuple[str, Expiration]]] = {}
    for period in periods:
        for ending in period.endings:
            month = max(timezone.localtime(ending.at).date().replace(day=1), this)
            found.setdefault(month, []).append((period.anchor, ending))
    return [_month(month, found.get(month, [])) for month in itertools.islice(_following(this), MONTHS)]


def _month(first_day: date, endings: list[tuple[str, Expiration]]) -> Month:
    return Month(
        f"{first_day:%b}",
        f"{first_day:%Y}",
        len(endings),
        sum(1 for _, ending in endings if ending.stops),
        endings[0][0] if endings else "",
    )


def _following(month: date) -> Iterator[date]:
    while True:
        yield month
        month = (month + timedelta(days=31)).replace(day=1)
