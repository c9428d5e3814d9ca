"""Token requests: how often each key fetched tokens for each connection, for the audit trail."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db import connection as database

from connections import prepared
from connections.models import ApiKey, Connection, TokenFetch

_TABLE = TokenFetch._meta.db_table

# Plain SQL, because these statements run for every token, and the ORM would take longer to build them than the database
# takes to run them. Rows are locked in order of id, so that processes that count the same rows cannot deadlock. Sealed
# rows never change.
_COUNT_MANY = f"""
WITH request AS (
    SELECT * FROM json_to_recordset(%s::json) AS request (
        n int, key_id bigint, connection_id bigint, address inet, resource text, reference text, count int
    )
), found AS (
    SELECT counter.id, request.n, request.count FROM {_TABLE} AS counter
    JOIN request ON counter.key_id = request.key_id AND counter.connection_id = request.connection_id
        AND counter.address IS NOT DISTINCT FROM request.address AND counter.resource = request.resource
        AND counter.reference = request.reference
    WHERE counter.minute = %s AND counter.seal IS NULL ORDER BY counter.id FOR UPDATE OF counter
)
UPDATE {_TABLE} AS counter SET count = counter.count + found.count FROM found WHERE counter.id = found.id RETURNING found.n
"""  # noqa: S608 - a name of our own table
_COUNT_ONE = f"""
UPDATE {_TABLE} SET count = count + %s
WHERE key_id = %s AND connection_id = %s AND address IS %s AND resource = %s AND reference = %s AND minute = %s
    AND seal IS NULL
"""  # noqa: S608
# If the key or connection has been removed in the meantime, the row still contains its name, as if it had been removed
# afterwards.
_INSERT = f"""
INSERT INTO {_TABLE} (
    key_id, key_ref, key_name, owner_name, connection_id, connection_ref, connection_name, minute, address, resource,
    reference, count
)
VALUES (
    (SELECT id FROM {ApiKey._meta.db_table} WHERE id = %s), %s, %s, %s,
    (SELECT id FROM {Connection._meta.db_table} WHERE id = %s), %s, %s, %s, %s, %s, %s, %s
)
ON CONFLICT (key_id, connection_id, address, minute, resource, reference) WHERE seal IS NULL
DO UPDATE SET count = {_TABLE}.count + excluded.count
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class TokenRequest:
    key_pk: int
    key_name: str
    owner_name: str
    connection_pk: int
    connection_name: str
    address: str | None
    resource: str = "graph"
    reference: str = ""  # the name of the connection reference in the request, if any


def record(requests: Iterable[TokenRequest], *, now: datetime) -> None:
    """Count the requests in one row per key, connection, address, resource, reference and minute.

    The counts are stored in the database when this returns.
    """
    counts = Counter(requests)
    if not counts:
        return
    # Use the form that the column stores, because SQLite compares times as text.
    minute = database.ops.adapt_datetimefield_value(now.replace(second=0, microsecond=0))
    count_up = _count_many if database.vendor == "postgresql" else _count_each
    uncounted = count_up(counts, minute)
    uncounted.sort(key=lambda each: (each.key_pk, each.connection_pk, str(each.address), each.resource, each.reference))
    while uncounted:
        try:
            with transaction.atomic(), database.cursor() as cursor:
                for request in uncounted:
                    _insert(cursor, request, counts[request], minute)
        except IntegrityError:
            continue  # a key or a connection is being removed at this moment
        return


def _count_many(counts: Counter[TokenRequest], minute: Any) -> list[TokenRequest]:
    """Increase the counts of existing rows; returns the requests that have no row yet."""
    requests = list(counts)
    rows = [
        {
            "n": number,
            "key_id": each.key_pk,
            "connection_id": each.connection_pk,
            "address": each.address,
            "resource": each.resource,
            "reference": each.reference,
            "count": counts[each],
        }
        for number, each in enumerate(requests)
    ]
    counted = {number for (number,) in prepared.rows(_COUNT_MANY, [json.dumps(rows), minute])}
    return [request for number, request in enumerate(requests) if number not in counted]


def _count_each(counts: Counter[TokenRequest], minute: Any) -> list[TokenRequest]:
    uncounted = []
    with transaction.atomic(), database.cursor() as cursor:
        for request, count in counts.items():
            which = [request.key_pk, request.connection_pk, _stored_address(request)]
            cursor.execute(_COUNT_ONE, [count, *which, request.resource, request.reference, minute])
            if not cursor.rowcount:
                uncounted.append(request)
    return uncounted


def _insert(cursor: Any, request: TokenRequest, count: int, minute: Any) -> None:
    key = [request.key_pk, request.key_pk, request.key_name, request.owner_name[:320]]
    connection = [request.connection_pk, request.connection_pk, request.connection_name]
    which = [minute, _stored_address(request), request.resource, request.reference]
    cursor.execute(_INSERT, [*key, *connection, *which, count])


def _stored_address(request: TokenRequest) -> Any:
    return TokenFetch._meta.get_field("address").get_db_prep_value(request.address, database)
