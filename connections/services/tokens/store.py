"""Write the tokens of connections after a sign-in or a refresh, encrypted and bound to their row."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection as database
from django.db import transaction

from connections.fields import Ciphertext, secret_field
from connections.microsoft import token_endpoint
from connections.models import AffectedConnection, Connection, ConsentRequest, Incident
from connections.models.connections import status_columns

# Refresh every active connection at least this often, so that a revocation is noticed within an hour.
MAX_REFRESH_INTERVAL = timedelta(hours=1)
MIN_REFRESH_INTERVAL = timedelta(minutes=1)
# Renew an access token at least this long before it expires.
MARGIN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RenewedToken:
    """A token response, and the ``token_version`` that was read before the request."""

    pk: int
    identity: UUID | str  # of the row; the encryption binds the tokens to it
    seen_version: int
    answer: token_endpoint.TokenSet
    # The refresh token that was sent and is now known to work; None for app-only connections.
    worked: str | None = field(repr=False)


def next_refresh(expires_in: int, *, now: datetime) -> datetime:
    """Return a random time for the next refresh, within the hour and before the token expires.

    ``expires_in`` is the token's lifetime in seconds.
    """
    lifetime = timedelta(seconds=expires_in)
    # The minimum prevents a token with a very short lifetime from being renewed again and again in one sweep.
    longest = max(MIN_REFRESH_INTERVAL, min(MAX_REFRESH_INTERVAL, max(lifetime - MARGIN, lifetime / 2)))
    return now + longest * random.uniform(0.75, 0.98)


def store_sign_in(
    connection: Connection, *, answer: token_endpoint.TokenSet, now: datetime, values: dict[str, Any] | None = None
) -> None:
    """Store the tokens of a sign-in, clear every flag, and make late responses invalid. Call it in a transaction."""
    Connection.objects.filter(pk=connection.pk).update(
        **(values or {}),
        **healthy_columns(now),
        refresh_token=_encrypt("refresh_token", answer.refresh_token, connection.identity),
        previous_refresh_token=None,
        access_token=_encrypt("access_token", answer.access_token, connection.identity),
        expires_at=now + timedelta(seconds=answer.expires_in),
        granted_scopes=" ".join(answer.granted),
        token_version=connection.token_version + 1,
        refresh_after=next_refresh(answer.expires_in, now=now),
        refreshed_at=now,
        checked_at=now,
    )


_SECRETS = {
    name: secret_field(Connection, name) for name in ("refresh_token", "previous_refresh_token", "access_token")
}


def _encrypt(column: str, token: str | None, identity: UUID | str) -> Ciphertext | None:
    return _SECRETS[column].encrypt(token, identity) if token else None


def healthy_columns(now: datetime) -> dict[str, Any]:
    """Return the column values of an active connection, with all past errors cleared."""
    return {
        **status_columns(Connection.Status.ACTIVE, since=now),
        "suspected_code": "",
        "suspected_at": None,
        "trouble_code": "",
        "trouble_at": None,
        "trouble_count": 0,
        "disabled_by": None,
        "disabled_by_admin": False,
    }


# One statement compares the version, writes the tokens, and reports what else has to be done for the connection. A
# refresh token that has just worked is kept as the previous one until its successor has also worked. If a response
# contains no refresh token, the current one is kept.
_COLUMNS = (
    ("pk", "bigint"),
    ("seen", "bigint"),
    ("refresh_token", "text"),
    ("worked", "text"),
    ("access_token", "text"),
    ("granted", "text"),
    ("expires_at", "timestamptz"),
    ("refresh_after", "timestamptz"),
)
_SET = """
    refresh_token = COALESCE({refresh_token}, {table}.refresh_token),
    previous_refresh_token = COALESCE({worked}, {table}.previous_refresh_token),
    access_token = {access_token}, granted_scopes = {granted}, expires_at = {expires_at},
    refresh_after = {refresh_after}, refreshed_at = {now}, checked_at = {now},
    token_version = {table}.token_version + 1,
    suspected_code = '', suspected_at = NULL, trouble_code = '', trouble_at = NULL, trouble_count = 0
"""
_TABLE, _AFFECTED, _INCIDENT, _REQUEST = (
    model._meta.db_table for model in (Connection, AffectedConnection, Incident, ConsentRequest)
)
_STORED = f"""
    {{row}}.id, {{row}}.status NOT IN ('{Connection.Status.ACTIVE}', '{Connection.Status.DISABLED}'),
    EXISTS (
        SELECT 1 FROM {_AFFECTED} a JOIN {_INCIDENT} i ON i.id = a.incident_id
        WHERE a.connection_id = {{row}}.id AND a.healed_at IS NULL AND i.closed_at IS NULL
    ),
    EXISTS (SELECT 1 FROM {_REQUEST} r WHERE r.connection_id = {{row}}.id AND r.closed_at IS NULL)
"""  # noqa: S608 - names of our own tables and columns
_POSTGRES = (
    f"UPDATE {_TABLE} AS c SET {_SET.format(table='c', now='%b', **{name: f'v.{name}' for name, _ in _COLUMNS})} "  # noqa: S608
    f"FROM unnest({', '.join(f'%b::{kind}[]' for _, kind in _COLUMNS)}) "
    f"AS v({', '.join(name for name, _ in _COLUMNS)}) "
    f"WHERE c.id = v.pk AND c.token_version = v.seen RETURNING {_STORED.format(row='c')}"
)
_SQLITE = (
    f"UPDATE {_TABLE} SET {_SET.format(table=_TABLE, now='%(now)s', **{n: f'%({n})s' for n, _ in _COLUMNS})} "  # noqa: S608
    "WHERE id = %(pk)s AND token_version = %(seen)s"
)
_SQLITE_STORED = f"""
SELECT {_STORED.format(row="c")} FROM {_TABLE} c JOIN json_each(%s) v ON c.id = v.value ->> 0
WHERE c.token_version = v.value ->> 1
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Stored:
    """A connection whose new tokens were stored, and what else the tokens may change."""

    pk: int
    is_flagged: bool  # its status is one that a new token disproves
    is_in_incident: bool
    has_request: bool  # has a consent request, which the token may fulfil


def store_renewed(renewed: Sequence[RenewedToken], *, now: datetime) -> dict[int, Stored]:
    """Store each response if the version of its connection is unchanged. Returns the connections written, by ID."""
    if not renewed:
        return {}
    rows = [_row(token, now) for token in renewed]
    with transaction.atomic():
        if database.vendor == "postgresql":
            # Bind on the server, because Django's cursor would paste megabytes of tokens into the statement.
            with psycopg.Cursor(database.connection) as cursor:
                cursor.execute(_POSTGRES, [now, now, *(list(column) for column in zip(*rows, strict=True))])
                stored = cursor.fetchall()
        else:
            stored = _write_sqlite(rows, now)
    return {
        pk: Stored(pk, bool(flagged), bool(in_incident), bool(is_requested))
        for pk, flagged, in_incident, is_requested in stored
    }


def _row(token: RenewedToken, now: datetime) -> tuple[Any, ...]:
    answer = token.answer
    return (
        token.pk,
        token.seen_version,
        _encrypt("refresh_token", answer.refresh_token, token.identity),
        _encrypt("previous_refresh_token", token.worked, token.identity),
        _encrypt("access_token", answer.access_token, token.identity),
        " ".join(answer.granted),
        now + timedelta(seconds=answer.expires_in),
        next_refresh(answer.expires_in, now=now),
    )


def _write_sqlite(rows: Sequence[tuple[Any, ...]], now: datetime) -> list[tuple[Any, ...]]:
    """Write the rows on SQLite. Nobody else writes until the transaction ends, so unchanged rows will be written."""
    adapt = database.ops.adapt_datetimefield_value
    names = [*(name for name, _ in _COLUMNS), "now"]
    values = [[adapt(value) if isinstance(value, datetime) else value for value in (*row, now)] for row in rows]
    with database.cursor() as cursor:
        cursor.execute(_SQLITE_STORED, [json.dumps([row[:2] for row in rows])])
        unchanged: list[tuple[Any, ...]] = cursor.fetchall()
        cursor.executemany(_SQLITE, [dict(zip(names, row, strict=True)) for row in values])
    return unchanged
