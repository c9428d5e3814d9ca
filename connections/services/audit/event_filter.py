from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from connections.models import AuditEvent


def filter_events(events: QuerySet[AuditEvent], entries: Mapping[str, Any]) -> QuerySet[AuditEvent]:
    """Apply the cleaned values of an AuditFilter, ignoring empty ones."""
    given = {name: value for name, value in entries.items() if value}
    if "q" in given:
        events = events.filter(Q(target_name__icontains=given["q"]) | Q(actor_name__icontains=given["q"]))
    if "who" in given:
        events = events.filter(actor_name__icontains=given["who"])
    equal = {name: given[name] for name in ("action", "target_type", "target_id", "outcome") if name in given}
    return events.filter(between_days("at", given.get("date_from"), given.get("date_to")), **equal)


def between_days(column: str, first: date | None, last: date | None) -> Q:
    """Match days from ``first`` to ``last`` (UTC), both included; None means no limit."""
    condition = Q()
    if first:
        condition &= Q(**{f"{column}__gte": datetime.combine(first, time.min, UTC)})
    if last and last < date.max:
        condition &= Q(**{f"{column}__lt": datetime.combine(last + timedelta(days=1), time.min, UTC)})
    return condition
