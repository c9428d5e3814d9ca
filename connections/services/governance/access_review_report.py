"""Access reviews as lists and tables: by state, and every item of one review for a download."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from connections.models import AccessReview, ReviewItem

_COLUMNS = (
    "Connection", "App registration", "Owner", "Shared with", "Kind", "Level", "Until", "Given by", "Given at",
    "Last used", "Decision", "Level when decided", "Decided by", "Decided at", "Note", "Ended at",
)  # fmt: skip


def in_state(reviews: QuerySet[AccessReview], state: str) -> QuerySet[AccessReview]:
    """The reviews that are "running", or else those that are closed or cancelled."""
    running = Q(closed_at=None, cancelled_at=None)
    return reviews.filter(running if state == "running" else ~running)


def table(review: AccessReview) -> tuple[str, tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """File name, header and rows of the report of a review."""
    items = review.items.order_by("connection_name", "pk").iterator(chunk_size=1000)
    return f"access-review-{review.pk}.csv", _COLUMNS, (_row(item) for item in items)


def _row(item: ReviewItem) -> tuple[Any, ...]:
    return (
        item.connection_name, item.app_name, item.owner_name, item.with_name, "team" if item.is_team else "person",
        item.level, _at(item.until), item.given_by_name, _at(item.given_at), _at(item.last_used_at), item.decision,
        item.decided_level, item.decided_by_name, _at(item.decided_at), item.note, _at(item.ended_at),
    )  # fmt: skip


def _at(when: datetime | None) -> str:
    return when.isoformat(timespec="seconds") if when else ""
