"""Lists that are split into pages of up to ``limit`` rows, with an opaque cursor that leads to the next page."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from django.db import models
from django.db.models import Q, QuerySet
from ninja import FilterSchema, Schema
from pydantic import Field, create_model

from connections import keyset
from connections.api.field_types import Text
from connections.errors import InvalidInput

M = TypeVar("M", bound=models.Model)
Item = TypeVar("Item")
MOST = 200


class PageQuery(FilterSchema):
    """The query parameters of every list."""

    # Subclasses add filters. Each is named after a column, or defined by a FilterLookup or a filter_… method.
    after: Text = Field("", max_length=2000, description="The previous page's `next`. Empty for the first page.")
    limit: int = Field(50, ge=1, le=MOST, description="Maximum number of items per page.")
    # The subclass's parameters that are not filters here, because the view applies them itself.
    not_columns: ClassVar[set[str]] = set()

    def matches(self) -> Q:
        """Return the filters as a condition. An empty filter matches every row."""
        skipped = {"after", "limit", *self.not_columns}
        values = {name: None if name in skipped else value or None for name, value in self}
        return self.model_copy(update=values).get_filter_expression()


class Page(Schema, Generic[Item]):
    next: str | None = Field(
        description="The next page's `after`. Null on the last page. A page can have fewer items than `limit`."
    )
    items: list[Item]


@cache
def page_of(item: type[Schema]) -> type[Schema]:
    """Return ``Page[TenantOut]`` as TenantPage. Generated clients would otherwise call it Page_TenantOut_."""
    name = item.__name__.removesuffix("Out") + "Page"
    return create_model(name, __base__=Page[item], __module__=__name__, __doc__="One page of a list.")  # type: ignore[valid-type]


def page(
    queryset: QuerySet[M], query: PageQuery, *, order: Sequence[str] = ("pk",), keep: Callable[[M], bool] | None = None
) -> dict[str, Any]:
    """Return the requested page of the matching rows, as input for a Page schema. ``order`` is as in keyset.page_rows.

    ``keep`` filters rows by conditions that the database cannot check, so a page may have fewer rows than ``limit``.
    Raises InvalidInput for an invalid cursor.
    """
    key = keyset.decode(query.after, queryset.model, order)
    if query.after and key is None:
        raise InvalidInput("This cursor doesn't belong to this list.", action="Start again without it.", field="after")
    rows = keyset.page_rows(queryset.filter(query.matches()), order, query.limit, key=key)
    items = rows[: query.limit]
    return {
        "items": items if keep is None else [row for row in items if keep(row)],
        "next": keyset.encode(items[-1], order) if len(rows) > query.limit else None,
    }
