from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from connections.models import AccessReview, User
from connections.services.audit import recorded_export

_COLUMNS = {
    "Connection": "connection_name", "App registration": "app_name", "Owner": "owner_name", "Shared with": "with_name",
    "Kind": "is_team", "Level": "level", "Until": "until", "Given by": "given_by_name", "Given at": "given_at",
    "Last used": "last_used_at", "Decision": "decision", "Level when decided": "decided_level",
    "Decided by": "decided_by_name", "Decided at": "decided_at", "Note": "note", "Ended at": "ended_at",
}  # fmt: skip


def in_state(reviews: QuerySet[AccessReview], state: str) -> QuerySet[AccessReview]:
    running = Q(closed_at=None, cancelled_at=None)
    return reviews.filter(running if state == "running" else ~running)


def table(review: AccessReview, *, actor: User) -> tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """Return the report's file name, header and rows. The audit trail records who exports it."""
    items = review.items.order_by("connection_name", "pk").iterator(chunk_size=1000)
    rows = (tuple(_cell(getattr(item, name)) for name in _COLUMNS.values()) for item in items)
    filters = {"review": f"{review.name} ({review.pk})"}
    recorded = recorded_export.of_list(rows, name="Access review", filters=filters, actor=actor)
    return f"access-review-{review.pk}.csv", tuple(_COLUMNS), recorded


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "team" if value else "person"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return "" if value is None else value
