from datetime import timedelta
from typing import Any

from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections.access import permissions, querysets, roles
from connections.models import AffectedConnection, Connection, Incident, Share, TokenFetch, User
from connections.models.connections import without_tokens
from connections.views import list_pages
from connections.views.audit import history
from connections.views.form_handling import get_visible

Kind = Incident.Kind
MOST_NAMES = 30  # maximum number of people, teams and keys named on the page
RECENT_FETCHES = timedelta(days=7)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
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
    incidents = filters.apply(querysets.visible_incidents(user)).distinct()
    page = list_pages.page(request, incidents, order=("-opened_at", "-pk"))
    shown = Incident.objects.filter(pk__in=[incident.pk for incident in page.items])
    affected = dict(shown.annotate(count=Count("affected")).values_list("pk", "count"))
    return render(request, "incidents/list.html", {"page": page, "filters": filters, "affected": affected})


def _by_state(incidents: QuerySet[Incident], value: str) -> QuerySet[Incident]:
    return incidents.filter(closed_at__isnull=value == "open")


def open_incidents(user: User, *, limit: int, kinds: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """List the open incidents this person may see, starting with those that affect the most connections."""
    incidents = querysets.visible_incidents(user).filter(closed_at=None)
    if kinds:
        incidents = incidents.filter(kind__in=kinds)
    count = Count("affected", filter=Q(affected__healed_at=None), distinct=True)
    rows = incidents.annotate(affected_count=count).order_by("-affected_count", "opened_at", "pk")[:limit]
    return [{"incident": row, "affected_count": row.affected_count, "fix": _fix_for(row, user)} for row in rows]


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, incident = get_visible(request, querysets.visible_incidents, pk)
    affected = _visible_affected(user, incident)
    page = list_pages.page(request, affected, order=("connection_name", "pk"))
    deliveries = incident.deliveries.select_related("channel").defer(
        "payload", "channel__url", "channel__signing_secret"
    )
    context = {
        "incident": incident,
        "fix": _fix_for(incident, user),
        "page": page,
        "rows": [(row, _can_sign_in(row, user, incident)) for row in page.items],
        "owners": list(affected.values_list("owner_name", flat=True).order_by("owner_name").distinct()[:MOST_NAMES]),
        "shared_with": _shared_with(affected),
        "keys": _keys_that_fetched(affected),
        "resolved": affected.exclude(healed_at=None).count(),
        "total": affected.count(),
        "outage_connections": _outage_connections(incident, user),
        "deliveries": list(deliveries.order_by("pk")[:50]) if permissions.can_read_registry(user) else [],
        "events": history(user, incident),
    }
    return render(request, "incidents/detail.html", context)


def _visible_affected(user: User, incident: Incident) -> QuerySet[AffectedConnection]:
    rows = querysets.visible_affected(user).filter(incident=incident)
    return without_tokens(rows.select_related("connection__app_registration", "owner"))


def _shared_with(affected: QuerySet[AffectedConnection]) -> list[str]:
    """Return the names of people and teams with access to a connection that is still affected."""
    unresolved = affected.filter(healed_at=None).values("connection")
    shares = Share.objects.active().filter(connection__in=unresolved).select_related("person", "team")
    return sorted({str(share.person or share.team) for share in shares[:MOST_NAMES]})


def _keys_that_fetched(affected: QuerySet[AffectedConnection]) -> list[str]:
    """Return the names of the API keys that recently requested tokens for these connections."""
    since = timezone.now() - RECENT_FETCHES
    fetches = TokenFetch.objects.filter(connection__in=affected.values("connection"), minute__gte=since)
    names = fetches.order_by().values_list("key_name", "owner_name").distinct()[:MOST_NAMES]
    return sorted(f"{key} of {owner.partition(' <')[0]}" for key, owner in names)


def _outage_connections(incident: Incident, user: User) -> int:
    """Count the connections an open outage affects; it is not recorded which ones they are."""
    if incident.kind != Kind.OUTAGE or not incident.is_open:
        return 0
    environment = incident.key.partition(":")[2]
    waiting = querysets.visible_connections(user).filter(
        app_registration__tenant__environment=environment, trouble_count__gt=0
    )
    return waiting[: list_pages.COUNT_LIMIT + 1].count()


def _can_sign_in(row: AffectedConnection, user: User, incident: Incident) -> bool:
    if row.connection is None or row.healed_at or incident.kind != Kind.ACCOUNT:
        return False
    needs_sign_in = row.connection.status == Connection.Status.RECONNECT_NEEDED
    return needs_sign_in and row.connection.is_delegated and permissions.can_reconnect(user, row.connection)


def _fix_for(incident: Incident, user: User) -> dict[str, Any] | None:
    """Return the button that starts the fix, or None if someone else must act. ``is_post`` means it submits a form."""
    if not incident.is_open:
        return None
    if incident.kind in (Kind.ACCOUNT, Kind.HAND_OVER):
        return _fix_by_sign_in(incident, user)
    if not permissions.can_manage_registry(user):
        return None
    pages: dict[str, tuple[str, str, int | None]] = {
        Kind.APP_REGISTRATION: ("Mend the app registration", "app", incident.app_registration_id),
        Kind.CONSENT: ("Grant consent", "consent_start", incident.app_registration_id),
        Kind.MAILBOX: ("See what the mailbox lacks", "mailbox", incident.mailbox_id),
        Kind.LEAVER: ("Hand over", "person_hand_over", incident.person_id),
        Kind.POLICY: ("Look at the app registration", "app", incident.app_registration_id),
    }
    label, url_name, pk = pages.get(incident.kind, ("", "", None))
    return {"label": label, "url": reverse(url_name, args=[pk])} if pk else None


def _fix_by_sign_in(incident: Incident, user: User) -> dict[str, Any] | None:
    row = _visible_affected(user, incident).filter(healed_at=None, connection__owner=user).first()
    if row is None or row.connection is None:
        return None
    if incident.kind == Kind.HAND_OVER:
        allowed, label = incident.assignee_id == user.pk, f"Sign in for {row.connection}"
    else:
        allowed = _can_sign_in(row, user, incident)
        label = f"Sign in again as {row.connection.account_username or row.connection_name}"
    url = reverse("connection_sign_in", args=[row.connection.pk])
    return {"label": label, "url": url, "is_post": True} if allowed else None
