"""The access history: who could use a connection, and what a person could use, at any time in the past.

Each result has its own URL.
"""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, roles
from connections.errors import InvalidInput
from connections.forms.access_history import AccessHistoryForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import AccessPeriod
from connections.services.audit import export as audit_export
from connections.services.sharing import history_check, history_export, history_queries
from connections.services.sharing.history_queries import Access, AccessHistoryQuery, Window
from connections.time_zones import in_utc
from connections.views.audit import audit_reader

MOST = 200  # rows on the page; the export has no limit
_ROLES = "Only IT admins and auditors can view the access history."
_ASK = "To see who can use your connections, open a connection."
_LEVELS = {"owner": "Owner", "manage": "Can manage", "use": "Can use"}
_GET = {"connection": history_queries.get_connection, "person": history_queries.get_person}
_FIND = {"connection": history_queries.find_connections, "person": history_queries.find_people}


@require_safe
@in_utc
def index(request: HttpRequest) -> HttpResponse:
    user = audit_reader(request, cause=_ROLES, action=_ASK)
    form = AccessHistoryForm(request.GET)
    context: dict[str, Any] = {"form": form, "about": request.GET.get("find") or "connection"}
    status = 200
    if form.is_valid() and form.about:
        context["about"] = form.about
        question = _question(form)
        if question is not None:
            context |= _answer(question, may_export=permissions.can_export_audit(user))
        elif form.cleaned_data["q"]:
            candidates = _FIND[form.about](form.cleaned_data["q"])
            if len(candidates) == 1:
                return redirect(_url(form.about, candidates[0].pk, form.window()))
            shown = candidates[: history_queries.CANDIDATES]
            context["candidates"] = [(candidate, _url(form.about, candidate.pk, form.window())) for candidate in shown]
            context["more"] = len(candidates) > len(shown)
        else:
            status = 404
            context["unknown"] = True
    return render(request, "access_history/index.html", context, status=status)


@require_POST
@fresh_sign_in_required()
def export(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(permissions.can_export_audit(user), cause="Only auditors can export.", action="Ask an auditor.")
    form = AccessHistoryForm(request.POST)
    question = _question(form) if form.is_valid() else None
    if question is None:
        raise InvalidInput(
            "No connection or person selected for the export.", action="Run the report, then select “Export as CSV”."
        )
    rows = history_export.export(question, actor=user)
    day = question.window.start.strftime("%Y-%m-%d-%H%M%S" if question.window.is_moment else "%Y-%m-%d")
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="access-{question.about}-{question.subject.pk}-{day}.csv"'
    response["Cache-Control"] = "no-store, private"
    csv.writer(response).writerows([audit_export.csv_cell(cell) for cell in row] for row in rows)
    return response


def link(about: str, pk: int) -> str:
    """Return the URL of today's access history of a connection or person."""
    return f"{reverse('access_history')}?{urlencode({about: pk})}"


def _question(form: AccessHistoryForm) -> AccessHistoryQuery | None:
    """Return the query for an object that exists or has existed. None if the form doesn't identify one by ID."""
    pk = form.cleaned_data.get(form.about) if form.about else None
    subject = _GET[form.about](pk) if pk else None
    return AccessHistoryQuery(form.about, subject, form.window()) if subject else None


def _url(about: str, pk: int, window: Window) -> str:
    parameters = {about: str(pk), "date": window.start.date().isoformat()}
    if window.is_moment:
        parameters["time"] = window.start.time().isoformat()
    return f"{reverse('access_history')}?{urlencode(parameters)}"


def _answer(question: AccessHistoryQuery, *, may_export: bool) -> dict[str, Any]:
    accesses, window = question.answer(), question.window
    shown = accesses[:MOST]
    people, connections = history_queries.existing_ids(shown)
    return {
        "question": question,
        "answers": [_describe(access, question, people, connections) for access in shown],
        "count": len(accesses),
        "is_cut": len(accesses) > MOST,
        "most": MOST,
        "period": _period(window),
        "began": history_check.history_start(),
        "may_export": may_export,
    }


def _period(window: Window) -> str:
    if window.is_moment:
        return f"at {window.start:%Y-%m-%d %H:%M:%S} UTC"
    if window.end - window.start < timedelta(days=1):
        return f"on {window.start:%Y-%m-%d} (UTC), until now"
    return f"on {window.start:%Y-%m-%d}, 00:00 to 24:00 UTC"


def _describe(access: Access, question: AccessHistoryQuery, people: set[int], connections: set[int]) -> dict[str, Any]:
    """Describe one person or connection in the result. ``url`` leads to the reverse query, and ``page`` to the details."""
    window = question.window
    lines = [
        {
            "through": _through(way.grant),
            "level": _LEVELS[way.level],
            "when": _when(way.stretches, window),
            "grant": way.grant,
            "membership": way.membership,
        }
        for way in access.paths
    ]
    if question.about == "connection":
        name, _, sign_in_name = access.person_name.rpartition(" <")
        url = _url("person", access.person_id, window)
        detail, page, is_deleted = sign_in_name.rstrip(">"), "", access.person_id not in people
    else:
        name, detail, is_deleted = access.connection_name, "", access.connection_id not in connections
        url = _url("connection", access.connection_id, window)
        page = "" if is_deleted else reverse("connection", args=[access.connection_id])
    return {"name": name, "detail": detail, "url": url, "page": page, "is_deleted": is_deleted, "lines": lines}


def _through(grant: AccessPeriod) -> str:
    if grant.kind == AccessPeriod.Kind.TEAM:
        return f"Shared with team {grant.team_name}"
    return "Shared with this person" if grant.kind == AccessPeriod.Kind.PERSON else "Ownership"


def _when(intervals: Sequence[history_queries.Interval], window: Window) -> tuple[str, ...]:
    """Return the time ranges within the day; empty if the query is about a single moment."""
    if window.is_moment:
        return ()
    midnight = window.start + timedelta(days=1)
    return tuple(
        "Whole day"
        if (start, end) == (window.start, window.end)
        else f"{_clock(start)} – {'24:00:00' if end == midnight else _clock(end)}"
        for start, end in intervals
    )


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M:%S}"
