"""Lists: pages by key, as many rows as asked for, and a cursor nobody needs to understand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db import models
from django.db.models import Q, QuerySet
from ninja import Schema
from pydantic import Field

from connections import keyset
from connections.api.field_types import Text
from connections.errors import InvalidInput

M = TypeVar("M", bound=models.Model)
MOST = 200


class PageQuery(Schema):
    """What every list may be asked for."""

    after: Text = Field("", max_length=2000, description="The `next` of the page before; empty for the first page.")
    limit: int = Field(50, ge=1, le=MOST, description="How many items a page has at most.")


class Page(Schema):
    """One page of a list."""

    next: str | None = Field(
        description="The `after` of the following page; null on the last one. A page may be shorter than `limit`."
    )


def page(
    queryset: QuerySet[M],
    page_query: PageQuery,
    *,
    describe: Callable[[M], dict[str, Any]],
    order: Sequence[str] = ("pk",),
    keep: Callable[[M], bool] | None = None,
) -> dict[str, Any]:
    """The page of ``queryset`` that was asked for, in ``order`` (see keyset.rows). Raises InvalidInput for a bad cursor.

    ``keep`` sorts out what the database cannot; such pages are shorter, and only a missing ``next`` is the end.
    """
    key = keyset.decode(page_query.after, queryset.model, order)
    if page_query.after and key is None:
        raise InvalidInput("This is no cursor of this list.", action="Start again without it.", field="after")
    rows = keyset.page_rows(queryset, order, page_query.limit, key=key)
    items = rows[: page_query.limit]
    return {
        "items": [describe(row) for row in items if keep is None or keep(row)],
        "next": keyset.encode(items[-1], order) if len(rows) > page_query.limit else None,
    }


def matching(text: str, *columns: str) -> Q:
    """Rows of which one of the columns holds ``text`` in any case; all rows for no text."""
    condition = Q()
    for column in columns:
        condition |= Q(**{f"{column}__icontains": text})
    return condition if text else Q()
