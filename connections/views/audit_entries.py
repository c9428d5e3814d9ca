"""Audit events and token requests in one list, newest first, with keyset pagination."""

import base64
import binascii
import heapq
import json
from dataclasses import dataclass
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest

from connections.microsoft import resources
from connections.models import AuditEvent, TokenFetch
from connections.models.audit import AuditAction
from connections.views import list_pages

SIZE = 50

Key = tuple[datetime, int, int]  # time, table and row: unique, and the order of the list


Entry = AuditEvent | SimpleNamespace


def _as_event(fetch: TokenFetch) -> SimpleNamespace:
    """Return a row of token requests as an object with the attributes of an event."""
    return SimpleNamespace(
        fetch=fetch,
        action=AuditAction.CONNECTION_TOKEN_FETCHED,
        target_type="Connection",
        outcome=AuditEvent.Outcome.DONE,
        get_outcome_display=AuditEvent.Outcome.DONE.label,
        at=fetch.minute,
        target_name=fetch.connection_name,
        target_id=str(fetch.connection_ref or ""),
        actor_name=fetch.owner_name,
        changes={
            "times": fetch.count,
            "for": resources.label(fetch.resource),
            "with key": fetch.key_name,
            "from": fetch.address,
        },
    )


@dataclass(frozen=True, slots=True)
class _Source:
    rank: int
    rows: QuerySet[Any]
    when: str  # the column with the time


def page(
    request: HttpRequest, events: QuerySet[AuditEvent] | None, fetches: QuerySet[TokenFetch] | None
) -> list_pages.Page[Any]:
    """Return the page for the key in the query string, or the first page if that key is missing or invalid."""
    sources = [_Source(1, events, "at")] if events is not None else []
    sources += [_Source(0, fetches, "minute")] if fetches is not None else []
    keyed_page = list_pages.keyset_page(
        request,
        SIZE,
        decode=_decode,
        fetch=lambda key, backwards: _rows(sources, key, backwards=backwards),
        encode=lambda row: _encode(row[0]),
        count=lambda: sum(source.rows.order_by()[: list_pages.COUNT_LIMIT + 1].count() for source in sources),
    )
    return list_pages.Page(
        [entry for _, entry in keyed_page.items], keyed_page.next_url, keyed_page.previous_url, keyed_page.total_capped
    )


def _rows(sources: list[_Source], key: Key | None, *, backwards: bool) -> list[tuple[Key, Entry]]:
    """Return one row more than fits on a page, in the direction of paging."""
    per_source = [_source_rows(source, key, backwards=backwards) for source in sources]
    return list(heapq.merge(*per_source, key=lambda row: row[0], reverse=not backwards))[: SIZE + 1]


def _source_rows(source: _Source, key: Key | None, *, backwards: bool) -> list[tuple[Key, Entry]]:
    rows = source.rows if key is None else source.rows.filter(_beyond(source, key, backwards=backwards))
    order = (source.when, "pk") if backwards else (f"-{source.when}", "-pk")
    return [
        ((getattr(row, source.when), source.rank, row.pk), _as_event(row) if isinstance(row, TokenFetch) else row)
        for row in rows.order_by(*order)[: SIZE + 1]
    ]


def _beyond(source: _Source, key: Key, *, backwards: bool) -> Q:
    when, rank, pk = key
    lookup = "gt" if backwards else "lt"
    same = Q(**{source.when: when})
    if source.rank == rank:
        same &= Q(**{f"pk__{lookup}": pk})
    elif (source.rank > rank) is not backwards:
        same = Q(pk=None)  # rows with this time are on the other side of the key
    # This condition lets the database use the index.
    return Q(**{f"{source.when}__{lookup}e": when}) & (Q(**{f"{source.when}__{lookup}": when}) | same)


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([key[0].isoformat(), *key[1:]]).encode()).decode().rstrip("=")


def _decode(text: str) -> Key | None:
    if not text:
        return None
    try:
        when, rank, pk = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        moment = datetime.fromisoformat(when)
    except (ValueError, TypeError, binascii.Error):
        return None
    is_valid = moment.tzinfo is not None and type(rank) is int and type(pk) is int and abs(pk) < 2**62
    return (moment, rank, pk) if is_valid else None
