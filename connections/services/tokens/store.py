"""The only module that writes tokens."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.db import connection as database
from django.db import transaction

from connections.fields import encrypt
from connections.microsoft import token_endpoint
from connections.models import Connection
from connections.models.connections import status_columns

# Refresh every active connection at least this often, so that a revocation is noticed within the hour.
MAX_REFRESH_INTERVAL = timedelta(hours=1)
MIN_REFRESH_INTERVAL = timedelta(minutes=1)
# Renew an access token at least this long before it expires.
MARGIN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RenewedToken:
    """A token response, and the ``token_version`` that was read before the request was sent."""

    pk: int
    seen_version: int
    answer: token_endpoint.TokenSet
    # The refresh token that was sent and is now known to work, still encrypted; None for app-only connections.
    worked: str | None


def next_refresh(expires_in: int, *, now: datetime) -> datetime:
    """A random time for the next refresh, within the hour and before the token expires in ``expires_in`` seconds."""
    lifetime = timedelta(seconds=expires_in)
    # The minimum keeps a very short-lived token from being renewed again and again within one sweep.
    longest = max(MIN_REFRESH_INTERVAL, min(MAX_REFRESH_INTERVAL, max(lifetime - MARGIN, lifetime / 2)))
    return now + longest * random.uniform(0.75, 0.98)


def store_sign_in(
    connection: Connection, *, answer: token_endpoint.TokenSet, now: datetime, values: dict[str, Any] | None = None
) -> None:
    """Store a sign-in's tokens, clear every flag and invalidate late responses. Call it inside a transaction."""
    Connection.objects.filter(pk=connection.pk).update(
        **(values or {}),
        **healthy_columns(now),
        refresh_token=answer.refresh_token,
        previous_refresh_token=None,
        access_token=answer.access_token,
        expires_at=now + timedelta(seconds=answer.expires_in),
        granted_scopes=" ".join(answer.granted),
        token_version=connection.token_version + 1,
        refresh_after=next_refresh(answer.expires_in, now=now),
        refreshed_at=now,
        checked_at=now,
    )


def healthy_columns(now: datetime) -> dict[str, Any]:
    """The column values of an active connection, with all past errors cleared."""
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


# One statement compares the version and writes. A refresh token that has just worked is kept as the previous one until
# its successor has worked, too; a response without a refresh token keeps the current one.
_COLUMNS = (
    ("pk", "bigint"),
    ("seen", "bigint"),
    ("refresh_token", "text"),
    ("worked", "text"),
    ("access_token", "text"),
    ("granted", "text"),
    ("expires_at", "timestamptz"),
    ("refresh_after", "timestamptz"),
    ("now", "timestamptz"),
)
_SET = """
    refresh_token = COALESCE({refresh_token}, {table}.refresh_token),
    previous_refresh_token = COALESCE({worked}, {table}.previous_refresh_token),
    access_token = {access_token}, granted_scopes = {granted}, expires_at = {expires_at},
    refresh_after = {refresh_after}, refreshed_at = {now}, checked_at = {now},
    token_version = {table}.token_version + 1,
    suspected_code = '', suspected_at = NULL, trouble_code = '', trouble_at = NULL, trouble_count = 0
"""
_TABLE = Connection._meta.db_table
_POSTGRES = (
    f"UPDATE {_TABLE} AS c SET {_SET.format(table='c', **{name: f'v.{name}' for name, _ in _COLUMNS})} "  # noqa: S608
    f"FROM unnest({', '.join(f'%b::{kind}[]' for _, kind in _COLUMNS)}) "
    f"AS v({', '.join(name for name, _ in _COLUMNS)}) "
    "WHERE c.id = v.pk AND c.token_version = v.seen RETURNING c.id"
)
_SQLITE = (
    f"UPDATE {_TABLE} SET {_SET.format(table=_TABLE, **{name: f'%({name})s' for name, _ in _COLUMNS})} "  # noqa: S608
    "WHERE id = %(pk)s AND token_version = %(seen)s RETURNING id"
)


def store_renewed(renewed: Sequence[RenewedToken], *, now: datetime) -> set[int]:
    """Store each response if its connection's version is unchanged; return the IDs of the connections written."""
    if not renewed:
        return set()
    rows = [
        (
            token.pk,
            token.seen_version,
            encrypt(token.answer.refresh_token) if token.answer.refresh_token else None,
            token.worked,
            encrypt(token.answer.access_token),
            " ".join(token.answer.granted),
            now + timedelta(seconds=token.answer.expires_in),
            next_refresh(token.answer.expires_in, now=now),
            now,
        )
        for token in renewed
    ]
    with transaction.atomic():
        if database.vendor != "postgresql":
            return {pk for row in rows for pk in _write_sqlite(row)}
        # Bind on the server, because Django's cursor would paste megabytes of tokens into the statement.
        with psycopg.Cursor(database.connection) as cursor:
            cursor.execute(_POSTGRES, [list(column) for column in zip(*rows, strict=True)])
            return {pk for (pk,) in cursor.fetchall()}


def _write_sqlite(row: tuple[Any, ...]) -> list[int]:
    adapt = database.ops.adapt_datetimefield_value
    values = (adapt(value) if isinstance(value, datetime) else value for value in row)
    with database.cursor() as cursor:
        cursor.execute(_SQLITE, dict(zip((name for name, _ in _COLUMNS), values, strict=True)))
        return [pk for (pk,) in cursor.fetchall()]
