from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, QuerySet, Sum, TextField, Value
from django.db.models.functions import Concat

from connections.models import AuditEvent, Connection, TokenFetch
from connections.models.audit import AuditAction

MAX_ROWS = 200  # per grouped report; the functions return one more row if there are more


@dataclass(frozen=True, slots=True)
class TokenRequestCount:
    connection_id: int | None
    connection_name: str
    key_name: str
    owner_name: str
    address: str | None
    times: int
    first: datetime
    last: datetime


def connections_created(events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
    return events.filter(action=AuditAction.CONNECTION_CREATED)


def token_requests(fetches: QuerySet[TokenFetch]) -> list[TokenRequestCount]:
    """Return who requested tokens, with which key and from where, latest first."""
    columns = ("connection_ref", "connection_name", "key_name", "owner_name", "address")
    grouped = fetches.order_by().values_list(*columns).annotate(Sum("count"), Min("minute"), latest=Max("minute"))
    return [TokenRequestCount(*row) for row in grouped.order_by("-latest", *columns)[: MAX_ROWS + 1]]


def objects_changed(events: QuerySet[AuditEvent]) -> list[Any]:
    """Return dicts of target_type, target_id, name, times, first and last, most frequently changed object first."""
    changes = events.filter(outcome=AuditEvent.Outcome.DONE).exclude(action__startswith="account.signed_")
    grouped = changes.order_by().values("target_type", "target_id")
    rows = grouped.annotate(name=Max("target_name"), times=Count("pk"), first=Min("at"), last=Max("at"))
    return list(rows.order_by("-times", "target_type", "target_id")[: MAX_ROWS + 1])


def actions_counted(events: QuerySet[AuditEvent]) -> list[tuple[str, int]]:
    rows = events.filter(outcome=AuditEvent.Outcome.DONE).order_by().values_list("action").annotate(times=Count("pk"))
    return list(rows.order_by("-times", "action"))


def permissions_in_use(connections: QuerySet[Connection]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    granted = connections.exclude(status=Connection.Status.DISABLED).order_by().select_related(None)
    for text in granted.values_list("granted_scopes", flat=True).iterator(chunk_size=2000):
        counts.update(set(text.split()))
    return dict(sorted(counts.items(), key=lambda item: item[0].lower()))


def connections_with_permission(connections: QuerySet[Connection], scope: str) -> QuerySet[Connection]:
    enabled = connections.exclude(status=Connection.Status.DISABLED)
    padded = Concat(Value(" "), "granted_scopes", Value(" "), output_field=TextField())
    return enabled.annotate(padded_scopes=padded).filter(padded_scopes__contains=f" {scope} ")
