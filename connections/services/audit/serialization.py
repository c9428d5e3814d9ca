"""The canonical form of the audit trail: every event and token request as one line of ASCII (docs/audit.md).

It contains only what never changes: the original ids of person, key and connection, not the foreign keys that become
NULL on deletion. Rows are read with plain cursors, because verification must manage a million rows per minute.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from json.scanner import make_scanner
from typing import Any, cast

from django.db import connection as database

from connections.models.audit import AuditAction

PAGE = 20_000  # rows read at once, about 20 MB
PACKED_LENGTH = 12  # bytes per row in AuditSeal.marks: four for the difference from the previous id, the rest a digest
_DIGEST_LENGTH = 8

Row = Sequence[Any]

_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=repr)


@dataclass(frozen=True, slots=True)
class Kind:
    """How events or token requests are serialized to lines. The first columns are id, time and action."""

    name: str
    select: str
    line: Callable[[Row], str]
    references: tuple[tuple[int, int], ...]  # columns: a foreign key, and the id it must equal if not NULL


def _text(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    return "null" if value is None else _invalid(value)


def _number(value: Any) -> str:
    if type(value) is int:
        return str(value)
    return "null" if value is None else _invalid(value)


def _json(value: Any) -> str:
    if value == "{}":
        return "{}"
    try:
        parsed, end = _scan(value, 0)
        if end == len(value):
            return "".join(_encode(parsed, 0))
    except (TypeError, ValueError, RecursionError, StopIteration):
        pass
    return _invalid(value)


def _fast_encoder() -> Callable[[Any, int], Iterable[str]]:
    """Reuse one C encoder, because JSONEncoder creates one per value, which takes a third as long as reading a row."""
    c_make_encoder = getattr(json.encoder, "c_make_encoder", None)
    if c_make_encoder is None:  # not CPython
        return lambda value, level: _encoder.iterencode(value)
    encode: Callable[[Any, int], Iterable[str]] = c_make_encoder(None, repr, quote, None, ":", ",", True, False, True)
    return encode


_encode = _fast_encoder()
# Unlike JSONDecoder.decode(), this does not skip surrounding white space, which databases do not write.
_scan: Callable[[Any, int], tuple[Any, int]] = make_scanner(cast(Any, json.JSONDecoder()))


def _invalid(value: Any) -> str:
    """Encode a value that only tampering can have put into its column, as text that no genuine line contains."""
    return _encoder.encode({"strange": f"{type(value).__name__}: {value!r}"})


def _time_as_text(column: str) -> str:
    """Return SQL for a time as text, because a planted "infinity" or year BC cannot be read as a datetime."""
    if database.vendor == "postgresql":
        pattern = 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"BC'
        return f"coalesce(to_char({column} AT TIME ZONE 'UTC', '{pattern}'), {column}::text)"
    # This must be an expression, because Django converts a plain datetime column from SQLite.
    return f"CASE typeof({column}) WHEN 'text' THEN {column} ELSE hex({column}) END"


def _time(value: Any) -> str:
    """Format a time from either database, in UTC with microseconds."""
    if isinstance(value, str):
        if value.endswith("+00:00AD"):  # PostgreSQL
            return f'"{value[:-2]}"'
        if len(value) == 26 and value[10] == " " and value[19] == ".":  # SQLite
            return quote(f"{value[:10]}T{value[11:]}+00:00")
        if len(value) == 19 and value[10] == " ":
            return quote(f"{value[:10]}T{value[11:]}.000000+00:00")
    return _text(value)


def _event_line(row: Row) -> str:
    return (
        f'{{"action":{_text(row[2])},"actor_id":{_number(row[3])},"actor_name":{_text(row[4])},'
        f'"address":{_text(row[5])},"at":{_time(row[1])},"changes":{_json(row[6])},"id":{_number(row[0])},'
        f'"kind":"event","outcome":{_text(row[7])},"owner_id":{_number(row[8])},"request_id":{_text(row[9])},'
        f'"target_id":{_text(row[10])},"target_name":{_text(row[11])},"target_type":{_text(row[12])}}}'
    )


def _fetch_line(row: Row) -> str:
    return (
        f'{{"address":{_text(row[3])},"connection_id":{_number(row[4])},"connection_name":{_text(row[5])},'
        f'"count":{_number(row[6])},"id":{_number(row[0])},"key_id":{_number(row[7])},"key_name":{_text(row[8])},'
        f'"kind":"token_fetch","minute":{_time(row[1])},"owner_name":{_text(row[9])}{_resource(row[13])}'
        f"{_reference(row[14])}}}"
    )


def _resource(value: Any) -> str:
    """Name the resource unless it is Graph, so that lines from before other resources existed stay the same."""
    return "" if value == "graph" else f',"resource":{_text(value)}'


def _reference(value: Any) -> str:
    """Name the reference only if the request used one, so that lines from before references existed stay the same."""
    return "" if value == "" else f',"reference":{_text(value)}'


_EVENT_COLUMNS = (
    "id, {at}, action, actor_ref, actor_name, address, changes, outcome, owner_id, request_id, target_id, target_name, "
    "target_type, actor_id"
)
_FETCH_COLUMNS = (
    f"id, {{minute}}, '{AuditAction.CONNECTION_TOKEN_FETCHED}', address, connection_ref, connection_name, count, "
    "key_ref, key_name, owner_name, connection_id, key_id, seal, resource, reference"
)


def events() -> Kind:
    columns = _EVENT_COLUMNS.format(at=_time_as_text("at"))
    return Kind("event", f"SELECT {columns} FROM connections_auditevent", _event_line, ((13, 3),))  # noqa: S608


def fetches() -> Kind:
    columns = _FETCH_COLUMNS.format(minute=_time_as_text("minute"))
    select = f"SELECT {columns} FROM connections_tokenfetch"  # noqa: S608
    return Kind("token_fetch", select, _fetch_line, ((10, 4), (11, 7)))


def rows(kind: Kind, where: str, parameters: Sequence[Any], *, limit: int | None = None) -> list[Row]:
    end = f" LIMIT {limit:d}" if limit is not None else ""
    with database.cursor() as cursor:
        cursor.execute(f"{kind.select} WHERE {where} ORDER BY id{end}", parameters)
        return list(cursor.fetchall())


def events_between(after: int | None, upto: int) -> Iterator[Row]:
    """Yield events with an id above ``after`` (None: from the first) up to ``upto``, reading page by page."""
    kind = events()
    condition, parameters = ("id <= %s", [upto]) if after is None else ("id > %s AND id <= %s", [after, upto])
    while page := rows(kind, condition, parameters, limit=PAGE):
        yield from page
        if len(page) < PAGE:
            return
        condition, parameters = "id > %s AND id <= %s", [page[-1][0], upto]


def fetches_of(first: int, last: int) -> Iterator[Row]:
    """Yield token requests covered by the seals ``first`` to ``last``, ordered by seal and id, reading page by page."""
    kind = fetches()
    seal, pk = first, None
    while True:
        begin = "seal >= %s" if pk is None else "(seal, id) > (%s, %s)"
        parameters = [seal, last] if pk is None else [seal, pk, last]
        with database.cursor() as cursor:
            order = f"ORDER BY seal, id LIMIT {PAGE}"
            cursor.execute(f"{kind.select} WHERE {begin} AND seal <= %s {order}", parameters)
            page = cursor.fetchall()
        yield from page
        if len(page) < PAGE:
            return
        seal, pk = page[-1][12], page[-1][0]


def lines(kind: Kind, rows: Sequence[Row]) -> list[bytes]:
    line = kind.line
    return [line(row).encode() for row in rows]


def digest(lines: Sequence[bytes]) -> str:
    """Return the SHA-256 of these lines, each with its line feed, in hex."""
    return hashlib.sha256(b"".join([line + b"\n" for line in lines])).hexdigest()


def content_digest(kind: Kind, row: Row) -> bytes:
    """Return a short digest of the row without its id, so that a row whose id was changed is recognised."""
    return hashlib.sha256(kind.line([0, *row[1:]]).encode()).digest()[:_DIGEST_LENGTH]


def pack_digests(kind: Kind, rows: Sequence[Row], *, after: int) -> bytes:
    """Pack the id and content digest of every row into PACKED_LENGTH bytes each."""
    parts = []
    for row in rows:
        # If a gap ever exceeds four bytes, verification can no longer name that row exactly, but still works.
        parts.append(min(row[0] - after, 2**32 - 1).to_bytes(4, "big") + content_digest(kind, row))
        after = row[0]
    return b"".join(parts)


def unpack_digests(packed: bytes, *, after: int) -> list[tuple[int, bytes]]:
    digests = []
    for at in range(0, len(packed) - PACKED_LENGTH + 1, PACKED_LENGTH):
        after += int.from_bytes(packed[at : at + 4], "big")
        digests.append((after, packed[at + 4 : at + PACKED_LENGTH]))
    return digests
