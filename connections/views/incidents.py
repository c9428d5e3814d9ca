from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.db.models import Case, Q, QuerySet, When
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections import effective_status, presentation
from connections.access import counts, permissions, querysets, roles
from connections.access.search import contains
from connections.charts import Moment, Timeline
from connections.effective_status import EffectiveStatus
from connections.models import AffectedConnection, Incident, Share, TokenFetch, User
from connections.models.connections import RELATED, without_tokens
from connections.services.connections import directories
from connections.services.policy import next_steps
from connections.views import list_pages
from connections.views.audit import history
from connections.views.form_handling import errors_as_messages, get_visible

Kind = Incident.Kind
_BY_SIGN_IN = (Kind.ACCOUNT, Kind.HAND_OVER)
LOOKED_AT = 200  # open incidents from which the most urgent are chosen
MOST_NAMES = 30  # maximum number of people, teams and keys named on the page
MOST_MOMENTS = 10  # connections on the timeline
MOST_OWN = 200  # connections of one person that are affected by the listed incidents
RECENT_FETCHES = timedelta(days=7)
# The client secret has expired, or is wrong.
_NEEDS_SECRET = ("AADSTS7000222", "AADSTS7000215")


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("title", "code"),
        placeholder="Title, code or connection",
        choices=(
            list_pages.Choice("state", "Status", (("open", "Open"), ("closed", "Resolved")), _by_state),
            list_pages.Choice("kind", "Type", Kind.choices, list_pages.by("kind")),
        ),
        sorts=(
            list_pages.Sort.by("-opened", "Newest first", "-opened_at", "-pk"),
            list_pages.Sort.by("opened", "Oldest first", "opened_at", "pk"),
        ),
    )
    incidents = filters.narrow(querysets.visible_incidents(user)).annotate(
        count=counts.related(AffectedConnection.objects.all(), "incident")
    )
    matches = _matches(filters) if permissions.can_read_registry(user) else list_pages.as_one(_matches(filters))
    page = list_pages.page(request, incidents, order=filters.order, matches=matches)
    affected = {incident.pk: incident.__dict__["count"] for incident in page.items}
    return render(request, "incidents/list.html", {"page": page, "filters": filters, "affected": affected})


def _matches(filters: list_pages.Filters) -> list[Q]:
    """Return the conditions of the search, which also covers the names of affected connections."""
    if not filters.query:
        return []
    named = AffectedConnection.objects.filter(contains(("connection_name",), filters.query))
    return [*filters.matches(), Q(pk__in=named.values("incident"))]


def _by_state(incidents: QuerySet[Incident], value: str) -> QuerySet[Incident]:
    return incidents.filter(closed_at__isnull=value == "open")


def open_incidents(user: User, *, limit: int, kinds: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return the open incidents that the user may see, starting with those that affect the most connections.

    An incident about the audit trail comes before all others.
    """
    incidents = querysets.visible_incidents(user).filter(closed_at=None)
    if kinds:
        incidents = incidents.filter(kind__in=kinds)
    count = counts.related(AffectedConnection.objects.filter(healed_at=None), "incident")
    # An untrustworthy audit trail affects no connection, but it is the most urgent problem.
    urgency = Case(When(kind=Kind.AUDIT_TRAIL, then=0), default=1)
    rows = (
        _latest(incidents)
        .annotate(affected_count=count)
        .order_by(urgency, "-affected_count", "opened_at", "pk")[:limit]
    )
    open_rows = list(rows)
    own = _own_affected(open_rows, user)
    return [
        {"incident": row, "affected_count": row.affected_count, "fix": _fix_for(row, user, own.get(row.pk))}
        for row in open_rows
    ]


def _latest(incidents: QuerySet[Incident]) -> QuerySet[Incident]:
    """Limit the open incidents to the latest LOOKED_AT about single accounts, and the latest LOOKED_AT others."""
    ids: list[int] = []
    for rows in (incidents.filter(kind=Kind.ACCOUNT), incidents.exclude(kind=Kind.ACCOUNT)):
        ids += rows.order_by("-opened_at", "-pk").values_list("pk", flat=True)[:LOOKED_AT]
    return incidents.filter(pk__in=ids)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, incident = get_visible(request, querysets.visible_incidents, pk)
    rows = querysets.visible_affected(user).filter(incident=incident)
    affected = without_tokens(rows.select_related(*(f"connection__{name}" for name in RELATED), "owner"))
    page = list_pages.page(request, affected, order=("connection_name", "pk"))
    deliveries = incident.deliveries.select_related("channel").defer(
        "payload", "channel__url", "channel__signing_secret"
    )
    context = {
        "incident": incident,
        "fix": _fix_for(incident, user, _own_affected([incident], user).get(incident.pk)),
        "page": page,
        "rows": _rows(page.items, user, incident),
        "owners": list(affected.values_list("owner_name", flat=True).order_by("owner_name").distinct()[:MOST_NAMES]),
        "shared_with": _shared_with(affected),
        "keys": _keys_that_fetched(affected),
        "resolved": counts.capped(affected.exclude(healed_at=None)),
        "total": counts.capped(affected),
        "outage_connections": _outage_connections(incident, user),
        "deliveries": list(deliveries.order_by("pk")[:50]) if permissions.can_read_registry(user) else [],
        "events": history(user, incident),
        "timeline": _timeline(incident, affected, timezone.now()),
    }
    return render(request, "incidents/detail.html", context)


def _timeline(incident: Incident, affected: QuerySet[AffectedConnection], now: datetime) -> Timeline:
    """Return a timeline of the incident, with when the first connections were affected and fixed."""
    moments = [Moment(incident.opened_at, "Incident opened", presentation.BROKEN)]
    rows = affected.order_by("since", "pk").values_list("connection_name", "since", "healed_at")[:MOST_MOMENTS]
    for name, since, healed_at in rows:
        moments.append(Moment(since, f"{name} affected", presentation.WARNING))
        if healed_at is not None:
            moments.append(Moment(healed_at, f"{name} resolved", presentation.OK))
    if incident.closed_at is not None:
        moments.append(Moment(incident.closed_at, "Incident resolved", presentation.OK))
    moments.sort(key=lambda moment: moment.at)
    end = incident.closed_at or now
    return Timeline("incident", "Course of the incident", moments[0].at, max(end, moments[-1].at), now, tuple(moments))


@require_POST
def add_tenant(request: HttpRequest, pk: int) -> HttpResponse:
    """Add the directory of the incident as a tenant, and attach the mailboxes that are waiting for it."""
    user, incident = get_visible(request, querysets.visible_incidents, pk)
    if incident.kind != Kind.TENANT:
        raise Http404
    with errors_as_messages(request, level=messages.ERROR):
        tenant = directories.register_asked(incident, actor=user, now=timezone.now())
        messages.success(request, f"{tenant} is added. The portal tests the shared mailboxes now.")
        return redirect("tenant", pk=tenant.pk)
    return redirect("incident", pk=pk)


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
    return sorted(f"{key} ({owner.partition(' <')[0]})" for key, owner in names)


def _outage_connections(incident: Incident, user: User) -> int:
    """Count the connections that an open outage affects. The portal does not record which ones they are."""
    if incident.kind != Kind.OUTAGE or not incident.is_open:
        return 0
    environment = incident.key.partition(":")[2]
    waiting = querysets.visible_connections(user).filter(app_registration__environment=environment, trouble_count__gt=0)
    return waiting[: list_pages.COUNT_LIMIT + 1].count()


def _rows(affected: list[AffectedConnection], user: User, incident: Incident) -> list[tuple[AffectedConnection, bool]]:
    """Return each row, and whether the user can fix the connection by signing in."""
    facts = next_steps.Facts.about([row.connection for row in affected if row.connection is not None])
    return [(row, _can_sign_in(row, user, incident, facts)) for row in affected]


def _can_sign_in(row: AffectedConnection, user: User, incident: Incident, facts: next_steps.Facts) -> bool:
    if row.connection is None or row.healed_at or incident.kind != Kind.ACCOUNT:
        return False
    effective = effective_status.of(row.connection)
    needs_sign_in = effective in (EffectiveStatus.RECONNECT_NEEDED, EffectiveStatus.ACCOUNT_GONE)
    return needs_sign_in and next_steps.may_sign_in(user, row.connection, facts=facts)


def _own_affected(incidents: Sequence[Incident], user: User) -> dict[int, AffectedConnection]:
    """Return a connection of the user for each of these incidents that they can resolve by signing in."""
    by_sign_in = [each.pk for each in incidents if each.is_open and each.kind in _BY_SIGN_IN]
    if not by_sign_in:
        return {}
    rows = querysets.visible_affected(user).filter(incident__in=by_sign_in, healed_at=None, connection__owner=user)
    related = without_tokens(rows.select_related(*(f"connection__{name}" for name in RELATED), "owner"))
    first: dict[int, AffectedConnection] = {}
    for row in related.order_by("connection_name", "pk")[:MOST_OWN]:
        first.setdefault(row.incident_id, row)
    return first


def _fix_for(incident: Incident, user: User, own: AffectedConnection | None) -> dict[str, Any] | None:
    """Return the button that starts the fix, or None if someone else must act. ``is_post`` means it submits a form."""
    if not incident.is_open:
        return None
    if incident.kind in _BY_SIGN_IN:
        return _fix_by_sign_in(incident, user, own)
    if incident.kind == Kind.AUDIT_TRAIL:
        return {"label": "View verifications", "url": reverse("audit_seals")}
    if not permissions.can_manage_registry(user):
        return None
    if incident.kind == Kind.TENANT:
        url = reverse("incident_add_tenant", args=[incident.pk])
        return {"label": "Add tenant", "url": url, "is_post": True, "icon": "plus"}
    pages: dict[str, tuple[str, str, int | None]] = {
        Kind.APP_REGISTRATION: (*_app_page(incident), incident.app_registration_id),
        Kind.CONSENT: ("Grant consent", "consent_start", incident.app_registration_id),
        Kind.MAILBOX: ("View mailbox access", "mailbox", incident.mailbox_id),
        Kind.LEAVER: ("Transfer ownership", "person_hand_over", incident.person_id),
        Kind.POLICY: ("View app registration", "app", incident.app_registration_id),
    }
    label, url_name, pk = pages.get(incident.kind, ("", "", None))
    return {"label": label, "url": reverse(url_name, args=[pk])} if pk else None


def _app_page(incident: Incident) -> tuple[str, str]:
    """The button and the page that fixes it: the credential's, the app registration's, or that of its tenants."""
    if incident.key.count(":") > 1:  # only one tenant rejects it
        return "Fix app registration", "app_consents"
    return ("Add credential", "credential_add") if incident.code in _NEEDS_SECRET else ("Fix app registration", "app")


def _fix_by_sign_in(incident: Incident, user: User, row: AffectedConnection | None) -> dict[str, Any] | None:
    if row is None or row.connection is None:
        return None
    label = f"Sign in again as {row.connection.account_username or row.connection_name}"
    if incident.kind == Kind.HAND_OVER:
        label = f"Sign in for {row.connection}"
    if not next_steps.may_sign_in(user, row.connection):
        return {"label": "View connection", "url": reverse("connection", args=[row.connection.pk])}
    return {"label": label, "url": reverse("connection_sign_in", args=[row.connection.pk]), "is_post": True}
