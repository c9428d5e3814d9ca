"""Keyset pagination, without OFFSET. A key is an opaque string with the last row's values in the sorted columns."""

from __future__ import annotations

import base64
import binascii
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.models import Q, QuerySet

M = TypeVar("M", bound=models.Model)
ALL = Q()


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a list that meet the condition, in their own order. No row may be in two parts of a list.

    The condition is a function that returns it if it depends on other rows.
    """

    order: tuple[str, ...]
    condition: Q | Callable[[], Q] = ALL

    def narrow(self, queryset: QuerySet[M]) -> QuerySet[M]:
        return queryset.filter(self.condition() if callable(self.condition) else self.condition)


@dataclass(frozen=True, slots=True)
class PartKey:
    """The last row of a page: the part of the list that it is in, and its values in the order of this part."""

    part: int
    values: list[Any]


def page_rows_in_parts(
    queryset: QuerySet[M],
    parts: Sequence[Part],
    size: int,
    *,
    key: PartKey | None = None,
    backwards: bool = False,
    matches: Sequence[Q] = (),
) -> list[tuple[int, M]]:
    """Return what page_rows() does for a list in parts, one after the other, each row with the number of its part.

    This sorts by what no column contains, such as an effective status, or by a column that may be null. It takes a
    query for each part until the page is full, and one for the rows.
    """
    if len(parts) == 1:
        narrowed = parts[0].narrow(queryset)
        values = key.values if key is not None else None
        rows = page_rows(narrowed, parts[0].order, size, key=values, backwards=backwards, matches=matches)
        return [(0, row) for row in rows]
    keys = _keys_in_parts(queryset, parts, size, key, backwards=backwards, matches=matches)
    by_key = queryset.in_bulk([pk for _, pk in keys])
    return [(number, by_key[pk]) for number, pk in keys if pk in by_key]


def _keys_in_parts(
    queryset: QuerySet[M],
    parts: Sequence[Part],
    size: int,
    key: PartKey | None,
    *,
    backwards: bool,
    matches: Sequence[Q],
) -> list[tuple[int, Any]]:
    """Return the numbers of parts and the primary keys of the rows. Queries without joins are planned quickly."""
    direction = -1 if backwards else 1
    numbers = range(len(parts))[::direction]
    keys: list[tuple[int, Any]] = []
    for number in numbers if key is None else numbers[numbers.index(key.part) :]:
        part = parts[number]
        rows = page_rows(
            part.narrow(queryset).values_list("pk", flat=True),
            part.order,
            size - len(keys),
            key=key.values if key is not None and key.part == number else None,
            backwards=backwards,
            matches=matches,
        )
        keys += [(number, pk) for pk in rows]
        if len(keys) > size:
            break
    return keys


def page_rows(
    queryset: QuerySet[M],
    order: Sequence[str],
    size: int,
    *,
    key: list[Any] | None = None,
    backwards: bool = False,
    matches: Sequence[Q] = (),
) -> list[M]:
    """Return a page's rows in the direction of paging, plus one more row if there is another page.

    ``order`` lists columns that are never null, with a leading "-" for descending order; the last one must be unique.
    If there are ``matches``, rows must match at least one of them. Each should test columns of one table.

    Paging through a large table needs an index on exactly the columns of ``order`` (in either direction), or a
    condition that few rows meet. There are indexes for these: connections by name; connections that are not active by
    status and name; app-only ones by name; people by first and last name; mailboxes by address; API keys and references by name; incidents by
    time. Every further index on connections would have to be updated at each refresh, unless it leaves out active ones.
    A column of a related object needs its index there, and one that leads from the related object to the rows.
    """
    directed = [name[1:] if name.startswith("-") else f"-{name}" for name in order] if backwards else list(order)
    if key is not None:
        queryset = queryset.filter(_beyond(directed, key))
    return list(any_match(queryset, directed, size + 1, matches).order_by(*directed)[: size + 1])


def any_match(queryset: QuerySet[M], order: Sequence[str], limit: int, matches: Sequence[Q]) -> QuerySet[M]:
    """Return the first ``limit`` rows in this order that match a condition, and possibly more.

    Without conditions, return all rows. Without an ``order``, which a count doesn't need, these are any ``limit`` rows.

    PostgreSQL finds the first rows for each condition with the index that suits the condition, and merges them.
    """
    if len(matches) < 2 or connections[queryset.db].vendor != "postgresql":
        return queryset.filter(reduce(operator.or_, matches, Q()))
    first, *others = (queryset.filter(match).order_by(*order).values("pk")[:limit] for match in matches)
    return queryset.filter(pk__in=first.union(*others))


def encode(item: models.Model, order: Sequence[str]) -> str:
    return pack(_values(item, order))


def _values(item: models.Model, order: Sequence[str]) -> list[Any]:
    return [reduce(getattr, name.removeprefix("-").split("__"), item) for name in order]


def pack(values: Sequence[Any]) -> str:
    key = [str(value) for value in values]
    return base64.urlsafe_b64encode(json.dumps(key, ensure_ascii=False).encode()).decode().rstrip("=")


def encode_in_parts(number: int, item: models.Model, parts: Sequence[Part]) -> str:
    return pack([number, *_values(item, parts[number].order)])


def decode_in_parts(text: str, model: type[models.Model], parts: Sequence[Part]) -> PartKey | None:
    """Return what encode_in_parts() was given, or None if it is invalid for these parts."""
    for number, part in enumerate(parts):
        texts = unpack(text, len(part.order) + 1)
        if texts is not None and texts[0] == str(number):
            values = _read_all(texts[1:], model, part.order)
            return None if values is None else PartKey(number, values)
    return None


def decode(text: str, model: type[models.Model], order: Sequence[str]) -> list[Any] | None:
    """Return the values in a key, or None if it is invalid for this order."""
    key = unpack(text, len(order))
    return None if key is None else _read_all(key, model, order)


def _read_all(texts: list[str], model: type[models.Model], order: Sequence[str]) -> list[Any] | None:
    try:
        return [_read(_column(model, name.removeprefix("-")), text) for name, text in zip(order, texts, strict=True)]
    except (ValueError, TypeError, OverflowError, ValidationError):
        return None


def unpack(text: str, length: int) -> list[str] | None:
    """Return the texts that pack() was given; None if they are not ``length`` texts that a database accepts."""
    if not text:
        return None
    try:
        key = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(key, list) or len(key) != length or any("\x00" in part for part in key):
            return None
        "".join(key).encode()  # raises for half a surrogate pair, which no database accepts
    except (ValueError, TypeError, RecursionError, binascii.Error):
        return None
    return key


def _read(column: models.Field[Any, Any], part: str) -> Any:
    if not isinstance(column, models.DateTimeField):
        return column.to_python(part)
    moment = datetime.fromisoformat(part)
    if moment.tzinfo is None:
        raise ValueError("A key's moment has its time zone.")
    return moment.astimezone(UTC)  # raises OverflowError here, and not in a query, if the time is out of range in UTC


def _beyond(directed: Sequence[str], key: Sequence[Any]) -> Q:
    """Match the rows after ``key``: (a > x) or (a = x and b > y) …, each in the direction of its column.

    All of them have a >= x, which no database concludes by itself, and where the scan of an index can begin.
    """
    first = directed[0]
    begins = Q(**{f"{first.removeprefix('-')}__{'lte' if first.startswith('-') else 'gte'}": key[0]})
    condition, equal = Q(), Q()
    for name, value in zip(directed, key, strict=True):
        column = name.removeprefix("-")
        lookup = "lt" if name.startswith("-") else "gt"
        condition |= equal & Q(**{f"{column}__{lookup}": value})
        equal &= Q(**{column: value})
    return begins & condition


def _column(model: type[models.Model], path: str) -> models.Field[Any, Any]:
    head, _, rest = path.partition("__")
    field = model._meta.pk if head == "pk" else model._meta.get_field(head)
    if rest:
        return _column(field.related_model, rest)  # type: ignore[arg-type]
    return field  # type: ignore[return-value]
