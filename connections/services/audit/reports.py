from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, QuerySet, Sum, TextField, Value
from django.db.models.functions import Concat

from connections.models import AuditEvent, Connection, Tally, TokenFetch
from connections.models.audit import AuditAction

MOST_EVENTS = 10_000  # the latest events of a period; a report on all of them would take minutes
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


def latest(events: QuerySet[AuditEvent]) -> tuple[QuerySet[AuditEvent], bool]:
    """Return the latest MOST_EVENTS, and whether there are more."""
    oldest = list(events.order_by("-pk").values_list("pk", flat=True)[MOST_EVENTS : MOST_EVENTS + 1])
    return (events.filter(pk__gt=oldest[0]), True) if oldest else (events, False)


def objects_changed(events: QuerySet[AuditEvent]) -> list[Any]:
    """Return dicts of target_type, target_id, name, times, first and last, most frequently changed object first."""
    changes = events.filter(outcome=AuditEvent.Outcome.DONE).exclude(action__startswith="account.signed_")
    grouped = changes.order_by().values("target_type", "target_id")
    rows = grouped.annotate(name=Max("target_name"), times=Count("pk"), first=Min("at"), last=Max("at"))
    return list(rows.order_by("-times", "target_type", "target_id")[: MAX_ROWS + 1])


def actions_counted(events: QuerySet[AuditEvent]) -> list[tuple[str, int]]:
    rows = events.filter(outcome=AuditEvent.Outcome.DONE).order_by().values_list("action").annotate(times=Count("pk"))
    return list(rows.order_by("-times", "action"))


def permissions_in_use() -> dict[str, int]:
    """Return the number of connections with each granted permission, from the stored tallies.

    Disabled connections are not counted.
    """
    counts: Counter[str] = Counter()
    for granted, number in Tally.objects.filter(subject=Tally.PERMISSIONS).totals("value"):
        counts.update(dict.fromkeys(granted.split(), number))
    return dict(sorted(counts.items(), key=lambda item: item[0].lower()))


def connections_with_permission(connections: QuerySet[Connection], scope: str) -> QuerySet[Connection]:
    enabled = connections.exclude(status=Connection.Status.DISABLED)
    every = (Value(" "), "granted_scopes", Value(" "), "other_granted", Value(" "))
    padded = Concat(*every, output_field=TextField())
    return enabled.annotate(padded_scopes=padded).filter(padded_scopes__contains=f" {scope} ")
