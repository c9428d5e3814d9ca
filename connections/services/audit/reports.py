"""Questions about the past and the present that an auditor asks, and their answers. Changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, QuerySet, Sum, TextField, Value
from django.db.models.functions import Concat

from connections.models import AuditEvent, Connection, TokenFetch
from connections.models.audit import AuditAction

MOST = 200  # rows of an answer that is put together from many


@dataclass(frozen=True, slots=True)
class TokenRequestCount:
    """What one key fetched of one connection from one address."""

    connection_id: int | None
    connection_name: str
    key_name: str
    owner_name: str
    address: str | None
    times: int
    first: datetime
    last: datetime


def connections_created(events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
    """Who created which connection, also those that are gone."""
    return events.filter(action=AuditAction.CONNECTION_CREATED)


def token_requests(fetches: QuerySet[TokenFetch]) -> list[TokenRequestCount]:
    """Who fetched tokens, with which key, from where; the latest first, one more than MOST at most."""
    columns = ("connection_ref", "connection_name", "key_name", "owner_name", "address")
    grouped = fetches.order_by().values_list(*columns).annotate(Sum("count"), Min("minute"), latest=Max("minute"))
    return [TokenRequestCount(*row) for row in grouped.order_by("-latest", *columns)[: MOST + 1]]


def objects_changed(events: QuerySet[AuditEvent]) -> list[Any]:
    """What was changed: dicts of target_type, target_id, name, times, first, last; the most often changed first."""
    grouped = events.filter(outcome=AuditEvent.Outcome.DONE).exclude(action__startswith="account.signed_")
    rows = grouped.order_by().values("target_type", "target_id")
    found = rows.annotate(name=Max("target_name"), times=Count("pk"), first=Min("at"), last=Max("at"))
    return list(found.order_by("-times", "target_type", "target_id")[: MOST + 1])


def actions_counted(events: QuerySet[AuditEvent]) -> list[tuple[str, int]]:
    """How often which action was done, the most frequent first."""
    rows = events.filter(outcome=AuditEvent.Outcome.DONE).order_by().values_list("action").annotate(times=Count("pk"))
    return list(rows.order_by("-times", "action"))


def permissions_in_use(connections: QuerySet[Connection]) -> dict[str, int]:
    """Which permissions are held now, and by how many connections; in alphabetical order."""
    counts: Counter[str] = Counter()
    granted = connections.exclude(status=Connection.Status.DISABLED).order_by().select_related(None)
    for text in granted.values_list("granted_scopes", flat=True).iterator(chunk_size=2000):
        counts.update(set(text.split()))
    return dict(sorted(counts.items(), key=lambda one: one[0].lower()))


def connections_with_permission(connections: QuerySet[Connection], scope: str) -> QuerySet[Connection]:
    """The connections that hold a permission now."""
    held = connections.exclude(status=Connection.Status.DISABLED)
    padded = Concat(Value(" "), "granted_scopes", Value(" "), output_field=TextField())
    return held.annotate(padded_scopes=padded).filter(padded_scopes__contains=f" {scope} ")
