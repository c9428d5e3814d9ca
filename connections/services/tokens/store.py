"""The one place where tokens are written."""

from __future__ import annotations

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

# Every active connection is refreshed at least this often, so that a revocation is seen within the hour.
MAX_REFRESH_INTERVAL = timedelta(hours=1)
MIN_REFRESH_INTERVAL = timedelta(minutes=1)
# An access token is renewed before it has less than this left.
MARGIN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class RenewedToken:
    """One successful answer on its way into the database, with the version that was read before asking."""

    pk: int
    seen_version: int
    answer: token_endpoint.TokenSet
    # The refresh token that was used and so is known to work, still encrypted; None for app-only connections.
    worked: str | None


def next_refresh(expires_in: int, *, now: datetime) -> datetime:
    """When to refresh again: within the hour, before the token ends, spread so that no herd forms."""
    longest = min(MAX_REFRESH_INTERVAL, max(timedelta(seconds=expires_in) - MARGIN, timedelta(seconds=expires_in) / 2))
    # A token that lasts no time must not be asked for again and again within one sweep.
    longest = max(longest, MIN_REFRESH_INTERVAL)
    return now + longest * random.uniform(0.75, 0.98)


def store_sign_in(
    connection: Connection, *, answer: token_endpoint.TokenSet, now: datetime, values: dict[str, Any] | None = None
) -> None:
    """Write the tokens of a fresh authorisation and clear every flag, whatever was there before.

    Raises the version, so that an answer still on its way to an older grant is dropped. Call inside a transaction.
    """
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
    """Columns of a connection that is well and shows no trace of past trouble."""
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


# --- Sets of answers ------------------------------------------------------------------------------

# Only rows whose version is still the one that was read; the compare and the set are one statement.
# A refresh token that has just worked is kept as the previous one until its successor has worked too; a reply
# without a refresh token keeps the old one.
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
    """Write many answers at once, each only if nobody wrote to that connection since it was read.

    Returns the ids that were written; the others lost to a newer write, which stands.
    """
    if not renewed:
        return set()
    rows = [_row(one, now) for one in renewed]
    with transaction.atomic():
        return _write_postgres(rows) if database.vendor == "postgresql" else _write_sqlite(rows)


def _write_postgres(rows: list[tuple[Any, ...]]) -> set[int]:
    # Bound by the server: Django's own cursor would first paste megabytes of tokens into the statement.
    with psycopg.Cursor(database.connection) as cursor:
        cursor.execute(_POSTGRES, [list(column) for column in zip(*rows, strict=True)])
        return {pk for (pk,) in cursor.fetchall()}


def _write_sqlite(rows: list[tuple[Any, ...]]) -> set[int]:
    written: set[int] = set()
    with database.cursor() as cursor:
        for row in rows:
            values = (
                database.ops.adapt_datetimefield_value(value) if isinstance(value, datetime) else value for value in row
            )
            cursor.execute(_SQLITE, dict(zip((name for name, _ in _COLUMNS), values, strict=True)))
            written.update(pk for (pk,) in cursor.fetchall())
    return written


def _row(renewed_token: RenewedToken, now: datetime) -> tuple[Any, ...]:
    answer = renewed_token.answer
    return (
        renewed_token.pk,
        renewed_token.seen_version,
        encrypt(answer.refresh_token) if answer.refresh_token else None,
        renewed_token.worked,
        encrypt(answer.access_token),
        " ".join(answer.granted),
        now + timedelta(seconds=answer.expires_in),
        next_refresh(answer.expires_in, now=now),
        now,
    )
