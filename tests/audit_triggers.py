"""Removes the triggers that guard the audit trail, as the database's owner could: to tamper, and to empty test databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection as database

TABLES = ("connections_auditevent", "connections_tokenfetch", "connections_auditseal")


@contextmanager
def removed() -> Iterator[None]:
    """Remove the triggers inside the block and restore them afterwards."""
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
    # A table with pending deferred constraints cannot be altered.
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
    """Have Django's flush, which empties test databases, remove the triggers meanwhile."""
    operations: Any = type(database.ops)
    flush = operations.execute_sql_flush

    def without_guards(self: Any, statements: list[str]) -> None:
        with removed():
            flush(self, statements)

    operations.execute_sql_flush = without_guards
