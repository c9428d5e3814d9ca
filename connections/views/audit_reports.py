from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import effective_status
from connections.access import querysets
from connections.forms.audit import ChangesForm, CreatorsForm, PermissionsForm, TokenRequestsForm
from connections.services.audit import reports
from connections.time_zones import in_utc
from connections.views import list_pages
from connections.views.audit import audit_reader

_QUESTIONS = (
    (
        "audit_creators",
        "",
        "Connections by creator",
        "Creation date, creator and current owner, including removed connections",
    ),
    (
        "audit_fetches",
        "",
        "Token requests by connection",
        "API keys, their owners and network addresses",
    ),
    ("audit_changes", "", "Changes between two days", "Number of events by type and object"),
    (
        "audit_scopes",
        "",
        "Connections by permission",
        "Permissions granted at the last sign-in or renewal",
    ),
    (
        "access_history",
        "?find=connection",
        "Access history by connection",
        "Owners, people and team members with access on a given day",
    ),
    (
        "access_history",
        "?find=person",
        "Access history by person",
        "Connections a person could access as owner, by a share or through a team",
    ),
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    audit_reader(request)
    questions = [(reverse(name) + query, words, hint) for name, query, words, hint in _QUESTIONS]
    return render(request, "audit_reports/index.html", {"questions": questions})


@require_safe
@in_utc
def creators(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    form = CreatorsForm(request.GET)
    events = reports.connections_created(querysets.visible_events(user))
    page = list_pages.page(request, form.narrow(events) if form.is_valid() else events.none(), order=("-pk",))
    ids = [event.target_id for event in page.items]
    existing = {str(connection.pk): connection for connection in querysets.visible_connections(user).filter(pk__in=ids)}
    rows = [(event, existing.get(event.target_id)) for event in page.items]
    return render(request, "audit_reports/creators.html", {"page": page, "filters": form, "rows": rows})


@require_safe
@in_utc
def fetches(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    form = TokenRequestsForm(request.GET)
    rows = []
    if form.is_valid() and form.active:
        rows = reports.token_requests(form.narrow(querysets.visible_fetches(user)))
    return render(request, "audit_reports/fetches.html", {"filters": form, **_cut(rows)})


@require_safe
@in_utc
def changes(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    today = timezone.now().date()
    days = {"date_from": (today - timedelta(days=6)).isoformat(), "date_to": today.isoformat()}
    form = ChangesForm(request.GET if "date_from" in request.GET or "date_to" in request.GET else days)
    context: dict[str, Any] = {"filters": form, "kinds": [], "most_events": reports.MOST_EVENTS, **_cut([])}
    if form.is_valid():
        events, context["has_more"] = reports.latest(querysets.visible_events(user).filter(form.within("at")))
        period = {name: str(value) for name, value in form.cleaned_data.items() if value}
        context |= _cut(reports.objects_changed(events))
        context["kinds"] = [
            (action, times, _trail_url(action=action, **period)) for action, times in reports.actions_counted(events)
        ]
        for row in context["rows"]:
            row["url"] = _trail_url(target_type=row["target_type"], target_id=row["target_id"], **period)
    return render(request, "audit_reports/changes.html", context)


@require_safe
@in_utc
def scopes(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    connections = querysets.visible_connections(user)
    held = reports.permissions_in_use()
    form = PermissionsForm(request.GET, scopes=held)
    scope = form.cleaned_data["scope"] if form.is_valid() else ""
    matches = reports.connections_with_permission(connections, scope) if scope else connections.none()
    page = list_pages.page(request, matches)
    effective_status.load(page.items)
    context = {"page": page, "filters": form, "scope": scope, "held": held}
    return render(request, "audit_reports/scopes.html", context)


def _trail_url(**filters: str) -> str:
    return f"{reverse('audit')}?{urlencode(filters, safe='/', quote_via=quote)}"


def _cut(rows: list[Any]) -> dict[str, Any]:
    return {"rows": rows[: reports.MAX_ROWS], "is_cut": len(rows) > reports.MAX_ROWS, "most": reports.MAX_ROWS}
