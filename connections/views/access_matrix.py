"""Current access: connections by people and teams, for IT admins and auditors."""

from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections import csv_export
from connections.access import permissions, querysets, roles
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import Connection, Share
from connections.services.audit import recorded_export
from connections.services.sharing import access_matrix
from connections.views import list_pages

HEADER = ("Connection ID", "Connection", "Owner", "Shared with", "Type", "Role", "Expires at")
SIZE = 25


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    filters, page, matrix = _read(request)
    context = {"filters": filters, "page": page, "matrix": matrix, "query": request.GET.urlencode()}
    return render(request, "access_matrix/index.html", context)


@require_POST
@fresh_sign_in_required()
def export(request: HttpRequest) -> HttpResponseBase:
    """Download the page that is shown as CSV, with one line for each share; a connection without any has one, too.

    This is a POST because the download is recorded.
    """
    filters, _, matrix = _read(request)
    lines = (line for row in matrix.rows for line in _lines(row))
    user = roles.current_user(request.user)
    rows = recorded_export.of_list(lines, name="Access", filters=filters.given, actor=user)
    return csv_export.as_csv("access.csv", HEADER, rows)


def _read(request: HttpRequest) -> tuple[list_pages.Filters, list_pages.Page[Connection], access_matrix.Matrix]:
    user, now = roles.current_user(request.user), timezone.now()
    roles.require(permissions.can_read_registry(user), action="Ask an IT admin or an auditor.")
    kinds = (("person", "With people"), ("team", "With teams"), ("none", "Not shared"))
    filters = list_pages.Filters(
        request,
        search=("name",),
        placeholder="Connection, person or team",
        choices=(list_pages.Choice("shared", "Shared", kinds, lambda rows, value: _shared(rows, value, now)),),
    )
    connections = querysets.visible_connections(user)
    matches = access_matrix.search(filters.query, now=now) if filters.query else []
    for choice in filters.choices:
        if choice.value:
            connections = choice.narrow(connections, choice.value)
    page = list_pages.page(request, connections, size=SIZE, matches=matches)
    return filters, page, access_matrix.matrix(page.items, now=now)


def _shared(connections: QuerySet[Connection], value: str, now: datetime) -> QuerySet[Connection]:
    shares = Share.objects.active(now).filter(connection=OuterRef("pk"))
    if value == "none":
        return connections.exclude(Exists(shares))
    return connections.filter(Exists(shares.filter(**{f"{value}__isnull": False})))


def _lines(row: access_matrix.Row) -> list[tuple[Any, ...]]:
    connection = row.connection
    first = (connection.pk, connection.name, str(connection.owner))
    if not row.shares:
        return [(*first, "", "", "", "")]
    return [
        (
            *first,
            holder.name,
            "team" if holder.is_team else "person",
            share.level,
            share.until.isoformat() if share.until else "",
        )
        for holder, share in row.shares
    ]
