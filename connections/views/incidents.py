"""Pages about incidents: what is broken, since when, who must act, and everything that breaks with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections.access import permissions, querysets, roles
from connections.models import AffectedConnection, Connection, Incident, Share, TokenFetch, User
from connections.models.connections import without_tokens
from connections.views import list_pages
from connections.views.audit import history

Kind = Incident.Kind
NAMED = 30  # people, teams and keys named on the page
FETCHED_LATELY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Repair:
    """The button that starts the repair. ``is_post``: it is submitted, not followed."""

    label: str
    url: str
    is_post: bool = False


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Open incidents first, then what has healed."""
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("title", "code", "affected__connection_name"),
        placeholder="Title, code or connection",
        choices=(
            list_pages.Choice("state", "State", (("open", "Open"), ("closed", "Healed")), _by_state),
            list_pages.Choice("kind", "Kind", Kind.choices, list_pages.by("kind")),
        ),
    )
    found = filters.apply(querysets.visible_incidents(user)).distinct()
    page = list_pages.page(request, found, order=("-opened_at", "-pk"))
    context = {"page": page, "filters": filters, "affected": _counts([incident.pk for incident in page.items])}
    return render(request, "incidents/list.html", context)


def _by_state(incidents: QuerySet[Incident], value: str) -> QuerySet[Incident]:
    return incidents.filter(closed_at__isnull=value == "open")


def _counts(pks: list[int]) -> dict[int, int]:
    rows = Incident.objects.filter(pk__in=pks).annotate(hit=Count("affected")).values_list("pk", "hit")
    return dict(rows)


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An open incident for a start page: how many connections it breaks now, and the button that mends it."""

    incident: Incident
    hit: int
    repair: Repair | None


def open_incidents(user: User, *, limit: int, kinds: tuple[str, ...] = ()) -> list[OpenIncident]:
    """The open incidents this person may see, those that break most first."""
    found = querysets.visible_incidents(user).filter(closed_at=None)
    if kinds:
        found = found.filter(kind__in=kinds)
    hit = Count("affected", filter=Q(affected__healed_at=None), distinct=True)
    rows = list(found.annotate(hit=hit).order_by("-hit", "opened_at", "pk")[:limit])
    return [OpenIncident(row, row.hit, repair_of(row, user)) for row in rows]


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One incident: cause, who must act with the button that starts it, blast radius, and its story."""
    user = roles.current_user(request.user)
    incident = get_object_or_404(querysets.visible_incidents(user), pk=pk)
    affected = list_pages.page(request, _visible_affected(user, incident), order=("connection_name", "pk"))
    hit = _visible_affected(user, incident)
    context = {
        "incident": incident,
        "repair": repair_of(incident, user),
        "page": affected,
        "rows": [(row, _sign_in_of(row, user, incident)) for row in affected.items],
        "owners": list(hit.values_list("owner_name", flat=True).order_by("owner_name").distinct()[:30]),
        "shared_with": _shared_with(hit),
        "keys": _keys_that_fetched(hit),
        "healed": hit.exclude(healed_at=None).count(),
        "total": hit.count(),
        "outage_connections": _connections_in(incident, user),
        "deliveries": list(
            incident.deliveries.select_related("channel")
            .defer("payload", "channel__url", "channel__signing_secret")
            .order_by("pk")[:50]
        )
        if permissions.can_read_registry(user)
        else [],
        "events": history(user, incident),
    }
    return render(request, "incidents/detail.html", context)


def _shared_with(hit: QuerySet[AffectedConnection]) -> list[str]:
    """Names of the people and teams that use the connections which still wait."""
    waiting = hit.filter(healed_at=None).values("connection")
    shares = Share.objects.active().filter(connection__in=waiting).select_related("person", "team")
    return sorted({str(share.person or share.team) for share in shares[:NAMED]})


def _keys_that_fetched(hit: QuerySet[AffectedConnection]) -> list[str]:
    """Names of the API keys that fetched tokens of these connections lately: the automations that feel it."""
    since = timezone.now() - FETCHED_LATELY
    fetches = TokenFetch.objects.filter(connection__in=hit.values("connection"), minute__gte=since)
    names = fetches.order_by().values_list("key_name", "owner_name").distinct()[:NAMED]
    return sorted(f"{key} of {owner.partition(' <')[0]}" for key, owner in names)


def _visible_affected(user: User, incident: Incident) -> QuerySet[AffectedConnection]:
    rows = querysets.visible_affected(user).filter(incident=incident)
    return without_tokens(rows.select_related("connection__app_registration", "owner"))


def _connections_in(incident: Incident, user: User) -> int:
    """How many connections wait for Microsoft; an outage lists none of them by name."""
    if incident.kind != Kind.OUTAGE or not incident.is_open:
        return 0
    environment = incident.key.partition(":")[2]
    waiting = querysets.visible_connections(user).filter(
        app_registration__tenant__environment=environment, trouble_count__gt=0
    )
    return waiting[: list_pages.COUNT_LIMIT + 1].count()


def _sign_in_of(row: AffectedConnection, user: User, incident: Incident) -> bool:
    """Whether this person can mend this connection by signing in."""
    if row.connection is None or row.healed_at or incident.kind != Kind.ACCOUNT:
        return False
    needs = row.connection.status == Connection.Status.RECONNECT_NEEDED
    return needs and row.connection.is_delegated and permissions.can_reconnect(user, row.connection)


def repair_of(incident: Incident, user: User) -> Repair | None:
    """The button that starts the repair, if it is this person's to press."""
    if not incident.is_open:
        return None
    if incident.kind == Kind.ACCOUNT:
        first = _visible_affected(user, incident).filter(healed_at=None, connection__owner=user).first()
        if first is None or first.connection is None or not _sign_in_of(first, user, incident):
            return None
        name = first.connection.account_username or first.connection_name
        return Repair(f"Sign in again as {name}", reverse("connection_sign_in", args=[first.connection.pk]), True)
    if incident.kind == Kind.HAND_OVER:
        return _repair_of_new_owner(incident, user)
    if not permissions.can_manage_registry(user):
        return None
    return _repair_of_admin(incident)


def _repair_of_new_owner(incident: Incident, user: User) -> Repair | None:
    row = _visible_affected(user, incident).filter(healed_at=None, connection__owner=user).first()
    if row is None or row.connection is None or incident.assignee_id != user.pk:
        return None
    return Repair(f"Sign in for {row.connection}", reverse("connection_sign_in", args=[row.connection.pk]), True)


def _repair_of_admin(incident: Incident) -> Repair | None:
    app, mailbox = incident.app_registration, incident.mailbox
    if incident.kind == Kind.APP_REGISTRATION and app:
        return Repair("Mend the app registration", reverse("app", args=[app.pk]))
    if incident.kind == Kind.CONSENT and app:
        return Repair("Grant consent", reverse("consent_start", args=[app.pk]))
    if incident.kind == Kind.MAILBOX and mailbox:
        return Repair("See what the mailbox lacks", reverse("mailbox", args=[mailbox.pk]))
    if incident.kind == Kind.LEAVER and incident.person_id:
        return Repair("Hand over", reverse("person_hand_over", args=[incident.person_id]))
    if incident.kind == Kind.POLICY and app:
        return Repair("Look at the app registration", reverse("app", args=[app.pk]))
    return None
