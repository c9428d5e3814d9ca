from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections.access import querysets
from connections.forms.audit import ChangesForm, CreatorsForm, PermissionsForm, TokenRequestsForm
from connections.services.audit import reports
from connections.views import list_pages
from connections.views.audit import audit_reader

_QUESTIONS = (
    (
        "audit_creators",
        "",
        "Who created which connection?",
        "When, and who owns it now; also of connections that are gone.",
    ),
    (
        "audit_fetches",
        "",
        "Who fetched tokens of a connection, and from where?",
        "Each key that fetched, its owner and the network address.",
    ),
    ("audit_changes", "", "What changed between two days?", "How often each kind of event happened, and to what."),
    (
        "audit_scopes",
        "",
        "Which connections hold which permissions?",
        "What Microsoft granted at the last sign-in or renewal.",
    ),
    (
        "access_history",
        "?find=connection",
        "Who could use a connection on a day?",
        "The owner, people and members of teams, and why.",
    ),
    (
        "access_history",
        "?find=person",
        "Which connections could a person use on a day?",
        "As the owner, by a share or through a team.",
    ),
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    audit_reader(request)
    questions = [(reverse(name) + query, words, hint) for name, query, words, hint in _QUESTIONS]
    return render(request, "audit_reports/index.html", {"questions": questions})


@require_safe
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
def fetches(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    form = TokenRequestsForm(request.GET)
    rows = []
    if form.is_valid() and form.active:
        rows = reports.token_requests(form.narrow(querysets.visible_fetches(user)))
    return render(request, "audit_reports/fetches.html", {"filters": form, **_cut(rows)})


@require_safe
def changes(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    today = timezone.now().date()
    days = {"date_from": (today - timedelta(days=6)).isoformat(), "date_to": today.isoformat()}
    form = ChangesForm(request.GET if "date_from" in request.GET or "date_to" in request.GET else days)
    context: dict[str, Any] = {"filters": form, "kinds": [], **_cut([])}
    if form.is_valid():
        events = querysets.visible_events(user).filter(form.within("at"))
        period = {name: str(value) for name, value in form.cleaned_data.items() if value}
        context |= _cut(reports.objects_changed(events))
        context["kinds"] = [
            (action, times, _trail_url(action=action, **period)) for action, times in reports.actions_counted(events)
        ]
        for row in context["rows"]:
            row["url"] = _trail_url(target_type=row["target_type"], target_id=row["target_id"], **period)
    return render(request, "audit_reports/changes.html", context)


@require_safe
def scopes(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request)
    connections = querysets.visible_connections(user)
    held = reports.permissions_in_use(connections)
    form = PermissionsForm(request.GET, scopes=held)
    scope = form.cleaned_data["scope"] if form.is_valid() else ""
    matches = reports.connections_with_permission(connections, scope) if scope else connections.none()
    context = {"page": list_pages.page(request, matches), "filters": form, "scope": scope, "held": held}
    return render(request, "audit_reports/scopes.html", context)


def _trail_url(**filters: str) -> str:
    return f"{reverse('audit')}?{urlencode(filters, safe='/', quote_via=quote)}"


def _cut(rows: list[Any]) -> dict[str, Any]:
    return {"rows": rows[: reports.MAX_ROWS], "is_cut": len(rows) > reports.MAX_ROWS, "most": reports.MAX_ROWS}
