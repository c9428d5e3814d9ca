"""Events and token hand-outs as one list, newest first, in pages by key."""

from __future__ import annotations

import base64
import binascii
import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections.models import AuditEvent, TokenFetch
from connections.models.audit import AuditAction
from connections.views import list_pages

SIZE = 50

Key = tuple[datetime, int, int]  # when, which table, which row: unique, and the order of the list


@dataclass(frozen=True, slots=True)
class HandOut:
    """A token hand-out, in the words of an event."""

    fetch: TokenFetch
    action: str = AuditAction.CONNECTION_TOKEN_FETCHED
    target_type: str = "Connection"
    outcome: str = AuditEvent.Outcome.DONE
    get_outcome_display: str = AuditEvent.Outcome.DONE.label

    @property
    def at(self) -> datetime:
        """The beginning of its minute."""
        return self.fetch.minute

    @property
    def target_name(self) -> str:
        """The connection."""
        return self.fetch.connection_name

    @property
    def actor_name(self) -> str:
        """The owner of the key."""
        return self.fetch.owner_name

    @property
    def changes(self) -> dict[str, Any]:
        """How often, with which key, from where."""
        return {"times": self.fetch.count, "with key": self.fetch.key_name, "from": self.fetch.address}


Entry = AuditEvent | HandOut


@dataclass(frozen=True, slots=True)
class _Source:
    rank: int
    rows: QuerySet[Any]
    when: str  # its column


def page(
    request: HttpRequest, events: QuerySet[AuditEvent] | None, fetches: QuerySet[TokenFetch] | None
) -> list_pages.Page[Any]:
    """The page the query string asks for; a key that makes no sense gives the first one."""
    sources = [_Source(1, events, "at")] if events is not None else []
    sources += [_Source(0, fetches, "minute")] if fetches is not None else []
    for name, backwards in (("after", False), ("before", True)):
        key = _decode(request.GET.get(name, ""))
        if key is not None:
            found = _rows(sources, key, backwards=backwards)
            if found:
                return _page(request, sources, found, backwards=backwards, keyed=True)
    return _page(request, sources, _rows(sources, None, backwards=False), backwards=False, keyed=False)


def _rows(sources: list[_Source], key: Key | None, *, backwards: bool) -> list[tuple[Key, Entry]]:
    """One more than a page, in the direction of reading."""
    found = [_of(source, key, backwards=backwards) for source in sources]
    return list(heapq.merge(*found, key=lambda one: one[0], reverse=not backwards))[: SIZE + 1]


def _of(source: _Source, key: Key | None, *, backwards: bool) -> list[tuple[Key, Entry]]:
    rows = source.rows if key is None else source.rows.filter(_beyond(source, key, backwards=backwards))
    order = (source.when, "pk") if backwards else (f"-{source.when}", "-pk")
    return [
        ((getattr(row, source.when), source.rank, row.pk), HandOut(row) if isinstance(row, TokenFetch) else row)
        for row in rows.order_by(*order)[: SIZE + 1]
    ]


def _beyond(source: _Source, key: Key, *, backwards: bool) -> Q:
    when, rank, pk = key
    way = "gt" if backwards else "lt"
    same = Q(**{source.when: when})
    if source.rank == rank:
        same &= Q(**{f"pk__{way}": pk})
    elif (source.rank > rank) is not backwards:
        same = Q(pk=None)  # stands on the other side of the key
    # The bound by itself is what lets the index be used.
    return Q(**{f"{source.when}__{way}e": when}) & (Q(**{f"{source.when}__{way}": when}) | same)


def _page(
    request: HttpRequest, sources: list[_Source], found: list[tuple[Key, Entry]], *, backwards: bool, keyed: bool
) -> list_pages.Page[Any]:
    more, shown = len(found) > SIZE, found[:SIZE]
    if backwards:
        shown.reverse()
    has_next = backwards or more
    has_previous = more if backwards else keyed
    total = len(shown)
    if has_next or has_previous:
        total = sum(source.rows.order_by()[: list_pages.COUNT_LIMIT + 1].count() for source in sources)
    return list_pages.Page(
        items=[entry for _, entry in shown],
        next_url=_url(request, "after", shown[-1][0]) if has_next and shown else "",
        previous_url=_url(request, "before", shown[0][0]) if has_previous and shown else "",
        total_capped=total,
    )


def _url(request: HttpRequest, direction: str, key: Key) -> str:
    query = request.GET.copy()
    query.pop("after", None)
    query.pop("before", None)
    query[direction] = (
        base64.urlsafe_b64encode(json.dumps([key[0].isoformat(), *key[1:]]).encode()).decode().rstrip("=")
    )
    return f"?{query.urlencode()}"


def _decode(text: str) -> Key | None:
    if not text:
        return None
    try:
        found: Iterable[Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        when, rank, pk = found
        moment = datetime.fromisoformat(when)
    except (ValueError, TypeError, binascii.Error):
        return None
    fits = moment.tzinfo is not None and type(rank) is int and type(pk) is int and abs(pk) < 2**62
    return (moment, rank, pk) if fits else None
