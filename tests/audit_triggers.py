"""Taking the database's guards of the audit trail away, as its owner could: to tamper, and to empty test databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection as database

TABLES = ("connections_auditevent", "connections_tokenfetch", "connections_auditseal")


@contextmanager
def removed() -> Iterator[None]:
    """Without guards inside, with them afterwards."""
    on, off = (_on_postgresql if database.vendor == "postgresql" else _on_sqlite)()
    with database.cursor() as cursor:
        for statement in off:
            cursor.execute(statement)
    try:
        yield
    finally:
        with database.cursor() as cursor:
            for statement in on:
                cursor.execute(statement)


def _on_postgresql() -> tuple[list[str], list[str]]:
    on, off = ([f"ALTER TABLE {table} {verb} TRIGGER USER" for table in TABLES] for verb in ("ENABLE", "DISABLE"))
    # A table with checks that wait for the end of the transaction cannot be altered.
    return ["SET CONSTRAINTS ALL IMMEDIATE", *on, "SET CONSTRAINTS ALL DEFERRED"], [
        "SET CONSTRAINTS ALL IMMEDIATE",
        *off,
    ]


def _on_sqlite() -> tuple[list[str], list[str]]:
    with database.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [row for row in cursor.fetchall() if row[0].startswith(TABLES)]
    return [sql for _, sql in triggers], [f"DROP TRIGGER {name}" for name, _ in triggers]


def let_flush_through() -> None:
    """Have Django's flush, with which tests empty their database, take the guards away for that moment."""
    operations: Any = type(database.ops)
    flush = operations.execute_sql_flush

    def without_guards(self: Any, statements: list[str]) -> None:
        with removed():
            flush(self, statements)

    operations.execute_sql_flush = without_guards
