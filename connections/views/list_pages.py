"""Search, filters and pagination for all list pages.

Pages use keyset pagination, never OFFSET, and no query counts a whole table: counting stops at COUNT_LIMIT.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest, QueryDict

from connections import keyset

M = TypeVar("M", bound=models.Model)
R = TypeVar("R")
K = TypeVar("K")

COUNT_LIMIT = 1000
SEARCH_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    items: list[R]
    next_url: str
    previous_url: str
    total_capped: int  # at most COUNT_LIMIT + 1, which means "more than COUNT_LIMIT"

    @property
    def shown(self) -> int:
        return len(self.items)

    @property
    def total(self) -> str:
        """Return the count as text, such as "37" or "1,000+"."""
        return f"{COUNT_LIMIT:,}+" if self.total_capped > COUNT_LIMIT else f"{self.total_capped:,}"

    @property
    def summary(self) -> str:
        """Return the line shown below the list."""
        if self.next_url or self.previous_url:
            return f"{self.shown} of {self.total}"
        return f"{self.total} {'entry' if self.total_capped == 1 else 'entries'}"


def page(
    request: HttpRequest, queryset: QuerySet[M], *, order: Sequence[str] = ("name", "pk"), size: int = 50
) -> Page[M]:
    """Return the page of ``queryset`` that the query string asks for, in two queries (four for an outdated link).

    ``order`` names columns that are never null, with a leading "-" for descending order; the last one must be unique.
    An invalid key returns the first page, because links become outdated or get truncated in e-mails.
    """
    return keyset_page(
        request,
        size,
        decode=lambda text: keyset.decode(text, queryset.model, order),
        fetch=lambda key, backwards: keyset.page_rows(queryset, order, size, key=key, backwards=backwards),
        encode=lambda row: keyset.encode(row, order),
        count=lambda: queryset.order_by()[: COUNT_LIMIT + 1].count(),
    )


def keyset_page(
    request: HttpRequest,
    size: int,
    *,
    decode: Callable[[str], K | None],
    fetch: Callable[[K | None, bool], list[R]],
    encode: Callable[[R], str],
    count: Callable[[], int],
) -> Page[R]:
    """Return the page for the key in the query string, or the first page.

    ``fetch`` returns ``size`` + 1 rows after the key in reading direction, or before it if its second argument is True.
    """
    for name, backwards in (("after", False), ("before", True)):
        key = decode(request.GET.get(name, ""))
        if key is not None and (rows := fetch(key, backwards)):
            break
    else:
        key, rows, backwards = None, fetch(None, False), False
    more, items = len(rows) > size, rows[:size]
    if backwards:
        items.reverse()
    has_next = backwards or more
    has_previous = more if backwards else key is not None
    return Page(
        items=items,
        next_url=page_url(request, "after", encode(items[-1])) if has_next and items else "",
        previous_url=page_url(request, "before", encode(items[0])) if has_previous and items else "",
        total_capped=count() if has_next or has_previous else len(items),
    )


def page_url(request: HttpRequest, direction: str, key: str) -> str:
    query = query_without_page(request)
    query[direction] = key
    return f"?{query.urlencode()}"


def query_without_page(request: HttpRequest) -> QueryDict:
    """Return a mutable copy of the query string without the pagination key."""
    query = request.GET.copy()
    for name in ("after", "before"):
        query.pop(name, None)
    return query


@dataclass(frozen=True)
class Choice:
    """A filter with fixed options. ``narrow`` is called with the queryset and the chosen value."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    narrow: Callable[[QuerySet[Any], str], QuerySet[Any]]
    value: str = ""  # filled in from the query string


class Filters:
    """A list's search and filters, read from the query string. Unknown values are ignored."""

    def __init__(
        self,
        request: HttpRequest,
        *,
        search: Sequence[str] = (),
        placeholder: str = "Search",
        choices: Sequence[Choice] = (),
    ) -> None:
        self.columns = search
        self.placeholder = placeholder
        self.query = request.GET.get("q", "").replace("\x00", "").strip()[:SEARCH_LENGTH] if search else ""
        self.choices = [
            replace(choice, value=value if value in {option for option, _ in choice.options} else "")
            for choice in choices
            for value in [request.GET.get(choice.name, "")]
        ]
        self.clear_url = request.path

    @property
    def searchable(self) -> bool:
        return bool(self.columns)

    @property
    def active(self) -> bool:
        """Whether a search or filter is set."""
        return bool(self.query or any(choice.value for choice in self.choices))

    def apply(self, queryset: QuerySet[M]) -> QuerySet[M]:
        if self.query:
            condition = Q()
            for column in self.columns:
                condition |= Q(**{f"{column}__icontains": self.query})
            queryset = queryset.filter(condition)
        for choice in self.choices:
            if choice.value:
                queryset = choice.narrow(queryset, choice.value)
        return queryset


def by(column: str) -> Callable[[QuerySet[Any], str], QuerySet[Any]]:
    """Return a ``narrow`` function for Choice that compares the column with the value."""
    return lambda queryset, value: queryset.filter(**{column: value})
