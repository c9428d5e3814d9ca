"""What all list pages share: search, filters and pages.

Pages go by key, never by OFFSET, and nothing counts a whole table: the count stops at COUNT_LIMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import models
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections import keyset

M = TypeVar("M", bound=models.Model)

COUNT_LIMIT = 1000
SEARCH_LENGTH = 100


# --- Pages ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page of a list."""

    items: list[M]
    next_url: str
    previous_url: str
    total_capped: int  # at most COUNT_LIMIT + 1, which means "more than COUNT_LIMIT"

    @property
    def shown(self) -> int:
        """How many items this page shows."""
        return len(self.items)

    @property
    def total(self) -> str:
        """The count in words: "37" or "1,000+"."""
        return f"{COUNT_LIMIT:,}+" if self.total_capped > COUNT_LIMIT else f"{self.total_capped:,}"

    @property
    def summary(self) -> str:
        """What the line under the list says."""
        if self.next_url or self.previous_url:
            return f"{self.shown} of {self.total}"
        return f"{self.total} {'entry' if self.total_capped == 1 else 'entries'}"


def page(
    request: HttpRequest, queryset: QuerySet[M], *, order: Sequence[str] = ("name", "pk"), size: int = 50
) -> Page[M]:
    """The page of ``queryset`` that the query string asks for. Two queries, or four after a stale link.

    ``order`` names columns that are never null, descending ones with a leading "-"; the last one must be unique.
    A key that makes no sense gives the first page: links get old and get cut in e-mails.
    """
    for name, backwards in (("after", False), ("before", True)):
        key = keyset.decode(request.GET.get(name, ""), queryset.model, order)
        if key is not None:
            rows = keyset.page_rows(queryset, order, size, key=key, backwards=backwards)
            if rows:
                return _page(request, queryset, order, size, rows, backwards=backwards, keyed=True)
    rows = keyset.page_rows(queryset, order, size)
    return _page(request, queryset, order, size, rows, backwards=False, keyed=False)


def _page(
    request: HttpRequest,
    queryset: QuerySet[M],
    order: Sequence[str],
    size: int,
    rows: list[M],
    *,
    backwards: bool,
    keyed: bool,
) -> Page[M]:
    more, items = len(rows) > size, rows[:size]
    if backwards:
        items.reverse()
    has_next = backwards or more
    has_previous = more if backwards else keyed
    total = queryset.order_by()[: COUNT_LIMIT + 1].count() if has_next or has_previous else len(items)
    return Page(
        items=items,
        next_url=_url(request, "after", items[-1], order) if has_next and items else "",
        previous_url=_url(request, "before", items[0], order) if has_previous and items else "",
        total_capped=total,
    )


def _url(request: HttpRequest, direction: str, item: models.Model, order: Sequence[str]) -> str:
    query = request.GET.copy()
    query.pop("after", None)
    query.pop("before", None)
    query[direction] = keyset.encode(item, order)
    return f"?{query.urlencode()}"


# --- Search and filters ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A filter with a fixed set of answers. ``narrow`` gets the queryset and one of the options' values."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    narrow: Callable[[QuerySet[Any], str], QuerySet[Any]]
    value: str = ""  # filled in from the query string


class Filters:
    """Search and filters of a list, as the query string has them. Values nobody offered are ignored."""

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
        self.choices = [self._asked(request, choice) for choice in choices]
        self.clear_url = request.path

    @staticmethod
    def _asked(request: HttpRequest, choice: Choice) -> Choice:
        value = request.GET.get(choice.name, "")
        known = value if value in {option for option, _ in choice.options} else ""
        return Choice(choice.name, choice.label, choice.options, choice.narrow, known)

    @property
    def searchable(self) -> bool:
        """Whether the list has a search field."""
        return bool(self.columns)

    @property
    def active(self) -> bool:
        """Whether anything narrows the list."""
        return bool(self.query or any(choice.value for choice in self.choices))

    def apply(self, queryset: QuerySet[M]) -> QuerySet[M]:
        """``queryset`` narrowed by what was asked."""
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
    """The usual ``narrow`` of a Choice: the column equals the value."""
    return lambda queryset, value: queryset.filter(**{column: value})
