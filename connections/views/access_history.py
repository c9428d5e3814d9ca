"""Who could use what, and when: two questions about any past moment, each with a page that can be shared."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, roles
from connections.errors import InvalidInput
from connections.forms.access_history import AccessQuestion
from connections.models import AccessPeriod
from connections.services.audit import export as audit_export
from connections.services.sharing import history_check, history_export, history_queries
from connections.services.sharing.history_queries import Access, AccessHistoryQuery, Candidate, Window

MOST = 200  # rows of a page; the export has them all
_ROLES = "Only IT admins and auditors may ask who could use what."
_ASK = "Who uses your own connections stands on their pages."
_LEVELS = {"owner": "Owns it", "manage": "Use and manage", "use": "Use"}
_CALLED: dict[str, Callable[[int], Candidate | None]] = {
    "connection": history_queries.get_connection,
    "person": history_queries.get_person,
}
_NAMED: dict[str, Callable[[str], list[Candidate]]] = {
    "connection": history_queries.find_connections,
    "person": history_queries.find_people,
}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """The two forms; under them what was found by a name, or the answer."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_read_audit(user), cause=_ROLES, action=_ASK)
    form = AccessQuestion(request.GET)
    context: dict[str, Any] = {"form": form, "about": request.GET.get("find") or "connection"}
    status = 200
    if form.is_valid() and form.about:
        context["about"] = form.about
        question = _question(form)
        if question is not None:
            context |= _answer(question, may_export=permissions.can_export_audit(user))
        elif form.cleaned_data["q"]:
            found = _NAMED[form.about](form.cleaned_data["q"])
            if len(found) == 1:
                return redirect(_url(form, found[0]))
            shown = found[: history_queries.CANDIDATES]
            context["candidates"] = [(one, _url(form, one)) for one in shown]
            context["more"] = len(found) > len(shown)
        else:
            status = 404
            context["unknown"] = True
    return render(request, "access_history/index.html", context, status=status)


@require_POST
def export(request: HttpRequest) -> HttpResponse:
    """The same answer as a file."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_export_audit(user), cause="Only auditors export.", action="Ask one of them.")
    form = AccessQuestion(request.POST)
    question = _question(form) if form.is_valid() else None
    if question is None:
        raise InvalidInput("It is not said what the export is about.", action="Ask on the page, then press “Export”.")
    rows = history_export.export(question, actor=user)
    day = (
        f"{question.window.start:%Y-%m-%d-%H%M%S}" if question.window.is_moment else f"{question.window.start:%Y-%m-%d}"
    )
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="access-{question.about}-{question.subject.pk}-{day}.csv"'
    response["Cache-Control"] = "no-store, private"
    csv.writer(response).writerows([audit_export.csv_cell(cell) for cell in row] for row in rows)
    return response


def link(about: str, pk: int) -> str:
    """The page that answers for today about a connection or a person."""
    return f"{reverse('access_history')}?{urlencode({about: pk})}"


# --- Parts ----------------------------------------------------------------------------------------


def _question(form: AccessQuestion) -> AccessHistoryQuery | None:
    """What is asked about something that exists or existed; None if it was not named by its number."""
    pk = form.cleaned_data.get(form.about) if form.about else None
    subject = _CALLED[form.about](pk) if pk else None
    return AccessHistoryQuery(form.about, subject, form.window()) if subject else None


def _url(form: AccessQuestion, candidate: Candidate) -> str:
    asked = {form.about: str(candidate.pk), "date": form.cleaned_data["date"].isoformat()}
    if form.cleaned_data.get("time"):
        asked["time"] = form.cleaned_data["time"].isoformat()
    return f"{reverse('access_history')}?{urlencode(asked)}"


@dataclass(frozen=True, slots=True)
class Line:
    """One way by which, in words."""

    through: str
    level: str
    when: tuple[str, ...]
    grant: AccessPeriod
    membership: AccessPeriod | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One person (or connection) of the answer."""

    name: str
    detail: str
    url: str  # the other question about it
    page: str  # its own page, "" if it is gone
    is_deleted: bool
    level: str
    lines: list[Line]


def _answer(question: AccessHistoryQuery, *, may_export: bool) -> dict[str, Any]:
    found = question.answer()
    shown = found[:MOST]
    people, connections = history_queries.existing_ids(shown)
    return {
        "question": question,
        "answers": [_describe(one, question, people, connections) for one in shown],
        "count": len(found),
        "is_cut": len(found) > MOST,
        "most": MOST,
        "is_today": question.window.end - question.window.start < timedelta(days=1) and not question.window.is_moment,
        "began": history_check.history_start(),
        "may_export": may_export,
    }


def _describe(access: Access, question: AccessHistoryQuery, people: set[int], connections: set[int]) -> Answer:
    lines = [
        Line(_through(way.grant), _LEVELS[way.level], _when(way.stretches, question.window), way.grant, way.membership)
        for way in access.paths
    ]
    if question.about == "connection":
        name, _, sign_in_name = access.person_name.rpartition(" <")
        url = _other("person", access.person_id, question.window)
        return Answer(
            name, sign_in_name.rstrip(">"), url, "", access.person_id not in people, _LEVELS[access.level], lines
        )
    page = reverse("connection", args=[access.connection_id]) if access.connection_id in connections else ""
    url = _other("connection", access.connection_id, question.window)
    return Answer(access.connection_name, "", url, page, not page, _LEVELS[access.level], lines)


def _other(about: str, pk: int, window: Window) -> str:
    """The other question about the same time."""
    asked = {about: str(pk), "date": window.start.date().isoformat()}
    if window.is_moment:
        asked["time"] = window.start.time().isoformat()
    return f"{reverse('access_history')}?{urlencode(asked)}"


def _through(grant: AccessPeriod) -> str:
    if grant.kind == AccessPeriod.Kind.TEAM:
        return f"Share with the team {grant.team_name}"
    return "Share with the person" if grant.kind == AccessPeriod.Kind.PERSON else "Ownership"


def _when(stretches: Sequence[history_queries.Interval], window: Window) -> tuple[str, ...]:
    """From when to when within the day; nothing to say about a single moment."""
    if window.is_moment:
        return ()
    return tuple(
        "The whole day" if (start, end) == (window.start, window.end) else f"{_clock(start)} – {_clock(end, window)}"
        for start, end in stretches
    )


def _clock(moment: datetime, window: Window | None = None) -> str:
    midnight = window is not None and moment == window.start + timedelta(days=1)
    return "24:00:00" if midnight else f"{moment.astimezone(UTC):%H:%M:%S}"
