from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from connections.models import AuditEvent


def filter_events(events: QuerySet[AuditEvent], entries: Mapping[str, Any]) -> QuerySet[AuditEvent]:
    """Apply the cleaned values of an AuditFilter, ignoring empty ones."""
    conditions = {name: value for name, value in entries.items() if value}
    if "q" in conditions:
        events = events.filter(Q(target_name__icontains=conditions["q"]) | Q(actor_name__icontains=conditions["q"]))
    if "who" in conditions:
        events = events.filter(actor_name__icontains=conditions["who"])
    equal = {name: conditions[name] for name in ("action", "target_type", "target_id", "outcome") if name in conditions}
    return events.filter(between_days("at", conditions.get("date_from"), conditions.get("date_to")), **equal)


def between_days(column: str, first: date | None, last: date | None) -> Q:
    """Match days from ``first`` to ``last`` (UTC), both included; None means no limit."""
    condition = Q()
    if first:
        condition &= Q(**{f"{column}__gte": datetime.combine(first, time.min, UTC)})
    if last and last < date.max:
        condition &= Q(**{f"{column}__lt": datetime.combine(last + timedelta(days=1), time.min, UTC)})
    return condition
