"""All encrypted columns of all models, and their stored values, which are not decrypted here.

The columns are found in the models, so that a new column is counted, checked and rotated automatically.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import psycopg
from django.apps import apps
from django.db import connection as database
from django.db import transaction

from connections.fields import IDENTITY, Ciphertext, SecretField
from connections.keys import ID_LENGTH


@dataclass(frozen=True, slots=True)
class StoredValue:
    pk: int
    identity: str
    ciphertext: str = field(repr=False)


def secret_fields() -> list[SecretField]:
    """Return every encrypted column, in a fixed order."""
    fields = [field for model in apps.get_models() for field in model._meta.local_concrete_fields]
    return sorted(
        (field for field in fields if isinstance(field, SecretField)),
        key=lambda column: (column.model._meta.db_table, column.column),
    )


def values(column: SecretField, *, batch: int, except_key: str = "") -> Iterator[list[StoredValue]]:
    """Yield the values of a column in batches, by primary key, without those that are encrypted with ``except_key``."""
    last = 0
    while rows := _read(column, after=last, limit=batch, except_key=except_key):
        yield rows
        last = rows[-1].pk


def _read(column: SecretField, *, after: int, limit: int, except_key: str) -> list[StoredValue]:
    quote = database.ops.quote_name
    name = quote(column.column)
    others = f"AND substr({name}, 1, {ID_LENGTH + 1}) <> %s" if except_key else ""
    statement = (
        f"SELECT id, {quote(IDENTITY)}, {name} FROM {quote(column.model._meta.db_table)} "  # noqa: S608 - our own names
        f"WHERE id > %s AND {name} IS NOT NULL {others} ORDER BY id LIMIT %s"
    )
    parameters: list[int | str] = [after, *([f"{except_key}:"] if except_key else []), limit]
    with database.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [StoredValue(pk, str(identity), ciphertext) for pk, identity, ciphertext in cursor.fetchall()]


def replace(column: SecretField, changes: Sequence[tuple[StoredValue, Ciphertext]]) -> int:
    """Store each new ciphertext if the value is still the one that was read. Returns how many were stored.

    Skips rows that someone else is writing right now, so that this never waits while it holds locks.
    """
    table, name = database.ops.quote_name(column.model._meta.db_table), database.ops.quote_name(column.column)
    rows = [(stored.pk, stored.ciphertext, str(ciphertext)) for stored, ciphertext in changes]
    if not rows:
        return 0
    with transaction.atomic():
        if database.vendor != "postgresql":
            with database.cursor() as cursor:
                return sum(_replace_one(cursor, table, name, row) for row in rows)
        statement = f"""
            WITH change AS (SELECT * FROM unnest(%b::bigint[], %b::text[], %b::text[]) AS c (pk, old, new)),
            free AS (
                SELECT t.id, change.new FROM {table} AS t JOIN change ON change.pk = t.id AND change.old = t.{name}
                FOR NO KEY UPDATE OF t SKIP LOCKED
            )
            UPDATE {table} AS t SET {name} = free.new FROM free WHERE t.id = free.id
        """  # noqa: S608 - names of our own tables and columns
        # Bind on the server, because Django's cursor would paste the values into the statement.
        with psycopg.Cursor(database.connection) as server_cursor:
            server_cursor.execute(statement.encode(), [list(part) for part in zip(*rows, strict=True)])
            return server_cursor.rowcount


def _replace_one(cursor: Any, table: str, name: str, row: tuple[int, str, str]) -> int:
    pk, old, new = row
    cursor.execute(f"UPDATE {table} SET {name} = %s WHERE id = %s AND {name} = %s", [new, pk, old])  # noqa: S608
    return int(cursor.rowcount)


def row_with(place_table: str, identity: str) -> tuple[str, int | None]:
    """Return the name of the table's rows, for example "connection", and the number of the row with this identity."""
    for column in secret_fields():
        model = column.model
        if model._meta.db_table == place_table:
            pk = model._default_manager.filter(identity=identity).values_list("pk", flat=True).first()
            return str(model._meta.verbose_name), pk
    return place_table, None


def install_triggers() -> None:
    """Create the triggers that protect identities. Safe to repeat."""
    with database.schema_editor() as editor:
        import_module("connections.migrations.0005_bound_secrets").install(None, editor, _tables())


def _tables() -> set[str]:
    return {column.model._meta.db_table for column in secret_fields()}


def tables_without_trigger() -> list[str]:
    """Return the tables with encrypted columns whose trigger is missing, so that rows' identities could be changed."""
    tables = _tables()
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute(
                "SELECT tgrelid::regclass::text FROM pg_trigger "
                "WHERE tgname = 'portal_identity_guard' AND tgenabled IN ('O', 'A')"
            )
        else:
            cursor.execute(
                "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger' AND name = tbl_name || '_keep_identity'"
            )
        return sorted(tables - {row[0] for row in cursor.fetchall()})
