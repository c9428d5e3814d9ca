"""Search, filters and keyset pagination for list pages. Counting stops at COUNT_LIMIT."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Generic, TypeVar

from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest, QueryDict

from connections import keyset
from connections.access import counts
from connections.access.search import contains

M = TypeVar("M", bound=models.Model)
R = TypeVar("R")
K = TypeVar("K")

COUNT_LIMIT = 1000
SEARCH_LENGTH = 100
FEW = 100  # related objects that a search lists by ID in its query


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
        """Return the line below the list, such as "50 of 1,000+"."""
        if self.next_url or self.previous_url:
            return f"{self.shown} of {self.total}"
        return f"{self.total} {'entry' if self.total_capped == 1 else 'entries'}"


def page(
    request: HttpRequest,
    queryset: QuerySet[M],
    *,
    order: "Sequence[str] | Sort" = ("name", "pk"),
    size: int = 50,
    matches: Sequence[Q] = (),
) -> Page[M]:
    """Return the page of ``queryset`` for the key in the query string.

    This takes two queries, or four for an outdated link, and more for a Sort in parts. ``order`` is a Sort, such as
    Filters.sort, or lists columns that are never null, with a leading "-" for descending order; the last one must be
    unique. Rows must meet at least one of the conditions ``matches``,
    such as Filters.matches(). If the queryset has few rows, such as those that a member sees, combine them with
    as_one() first: testing all rows then costs less than merging the matches. An invalid key returns the first page,
    because links become outdated or get truncated in emails.
    """
    parts = order.parts if isinstance(order, Sort) else (keyset.Part(tuple(order)),)
    numbered = keyset_page(
        request,
        size,
        decode=lambda text: keyset.decode_in_parts(text, queryset.model, parts),
        fetch=lambda key, backwards: keyset.page_rows_in_parts(
            queryset, parts, size, key=key, backwards=backwards, matches=matches
        ),
        encode=lambda row: keyset.encode_in_parts(*row, parts),
        count=lambda: counts.capped(keyset.any_match(queryset, (), COUNT_LIMIT + 1, matches), COUNT_LIMIT),
    )
    items = [item for _, item in numbered.items]
    return Page(items, numbered.next_url, numbered.previous_url, numbered.total_capped)


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

    ``fetch(key, backwards)`` must return up to ``size`` + 1 rows after the key or, if ``backwards`` is True, before it.
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
    """A filter with fixed options. ``narrow(queryset, value)`` must return the rows that match the chosen value."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    narrow: Callable[[QuerySet[Any], str], QuerySet[Any]]
    value: str = ""  # filled in from the query string


@dataclass(frozen=True)
class Word:
    """A filter for typed text. ``narrow(queryset, value)`` is called with the text without surrounding spaces."""

    name: str
    label: str
    narrow: Callable[[QuerySet[Any], str], QuerySet[Any]]
    value: str = ""  # filled in from the query string


@dataclass(frozen=True)
class Sort:
    """An order that a list offers. Its columns need an index. See keyset.page_rows about the order of a part."""

    name: str  # in the query string; with a leading "-" the opposite of the order without
    label: str
    parts: tuple[keyset.Part, ...]

    @classmethod
    def by(cls, name: str, label: str, *order: str) -> "Sort":
        return cls(name, label, (keyset.Part(order),))


def name_sorts(*columns: str) -> tuple[Sort, Sort]:
    """The orders of a list by these columns, which are a name, and by ID. The first is the list's usual order."""
    reverse = tuple(f"-{column}" for column in columns)
    return Sort.by("name", "Name: A to Z", *columns, "pk"), Sort.by("-name", "Name: Z to A", *reverse, "-pk")


class Filters:
    """A list's search, filters and order, read from the query string. Unknown values are ignored."""

    def __init__(
        self,
        request: HttpRequest,
        *,
        search: Sequence[str] = (),
        placeholder: str = "Search",
        choices: Sequence[Choice] = (),
        model: type[models.Model] | None = None,
        words: Sequence[Word] = (),
        sorts: Sequence[Sort] = (),
    ) -> None:
        """``model`` is needed for matches() with columns of related objects."""
        self.model: Any = model
        self.columns = search
        self.placeholder = placeholder
        self.query = _typed(request, "q") if search else ""
        self.choices = [
            replace(choice, value=value if value in {option for option, _ in choice.options} else "")
            for choice in choices
            for value in [request.GET.get(choice.name, "")]
        ]
        self.words: list[Word] = [replace(word, value=_typed(request, word.name)) for word in words]
        self.sorts = sorts
        self.sort = next((sort for sort in sorts if sort.name == request.GET.get("sort")), sorts[0] if sorts else None)
        self._query = query_without_page(request)
        self.clear_url = request.path

    @property
    def _narrowing(self) -> list[Choice | Word]:
        return [*self.choices, *self.words]

    @property
    def searchable(self) -> bool:
        return bool(self.columns)

    @property
    def active(self) -> bool:
        return bool(self.query or any(each.value for each in self._narrowing))

    @property
    def query_string(self) -> str:
        """The query string without the page's key, for links and forms that keep the filters."""
        return self._query.urlencode()

    @property
    def given(self) -> dict[str, str]:
        """The search, the filters and the order that are in use, by their names in the query string."""
        order = self.sort.name if self.sort else ""
        return {"q": self.query, **{each.name: each.value for each in self._narrowing}, "sort": order}

    @property
    def order(self) -> "Sort | Sequence[str]":
        return self.sort or ("name", "pk")

    @property
    def headers(self) -> dict[str, dict[str, str]]:
        """The links of column headings by the name of their order, for partials/heading.html.

        A link sorts by its column, or reverses the order if the list is sorted by it, as aria-sort says.
        """
        headers = {}
        current = self.sort.name if self.sort else ""
        for name in dict.fromkeys(sort.name.removeprefix("-") for sort in self.sorts):
            # The first one of the two in the list is what people look for first, such as the newest.
            first, second = [sort.name for sort in self.sorts if sort.name.removeprefix("-") == name]
            query = self._query.copy()
            query["sort"] = second if current == first else first
            direction = {name: "ascending", f"-{name}": "descending"}.get(current, "none")
            headers[name] = {"url": f"?{query.urlencode()}", "direction": direction}
        return headers

    def apply(self, queryset: QuerySet[M]) -> QuerySet[M]:
        """Apply the search and the filters. For a search in several large tables, use narrow() and matches()."""
        return self.narrow(queryset.filter(contains(self.columns, self.query)) if self.query else queryset)

    def matches(self) -> list[Q]:
        """Return the search as conditions for page(), each about a single table; [] without a search text."""
        if not self.query:
            return []
        own = [column for column in self.columns if "__" not in column]
        return [contains(own, self.query), *(self._related(column) for column in self.columns if "__" in column)]

    def _related(self, path: str) -> Q:
        """Match rows by a column of a related object. If few related objects match, the query lists their IDs."""
        name, column = path.split("__")
        related = self.model._meta.get_field(name).related_model
        found = related._base_manager.filter(contains([column], self.query)).order_by().values_list("pk", flat=True)
        ids = list(found[: FEW + 1])
        return Q(**{f"{name}__in": ids if len(ids) <= FEW else found})

    def narrow(self, queryset: QuerySet[M]) -> QuerySet[M]:
        """Apply the filters, but not the search."""
        for each in self._narrowing:
            if each.value:
                queryset = each.narrow(queryset, each.value)
        return queryset


def as_one(matches: Sequence[Q]) -> list[Q]:
    return [reduce(operator.or_, matches)] if matches else []


def _typed(request: HttpRequest, name: str) -> str:
    return request.GET.get(name, "").replace("\x00", "").strip()[:SEARCH_LENGTH]


def by(column: str) -> Callable[[QuerySet[Any], str], QuerySet[Any]]:
    """Return a ``narrow`` function for Choice that compares the column with the value."""
    return lambda queryset, value: queryset.filter(**{column: value})
