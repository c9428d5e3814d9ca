"""Disables the audit trail's triggers, in order to tamper with it and to empty test databases."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection as database

TABLES = ("connections_auditevent", "connections_tokenfetch", "connections_auditseal")


@contextmanager
def removed() -> Iterator[None]:
    """Run a block with the triggers removed."""
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
    # A table with deferred constraint checks cannot be altered.
    immediate = "SET CONSTRAINTS ALL IMMEDIATE"
    return [immediate, *on, "SET CONSTRAINTS ALL DEFERRED"], [immediate, *off]


def _on_sqlite() -> tuple[list[str], list[str]]:
    with database.cursor() as cursor:
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = [row for row in cursor.fetchall() if row[0].startswith(TABLES)]
    return [sql for _, sql in triggers], [f"DROP TRIGGER {name}" for name, _ in triggers]


def let_flush_through() -> None:
    """Let Django's flush, which empties a test database, run without the triggers."""
    operations: Any = type(database.ops)
    flush = operations.execute_sql_flush

    def flush_without_triggers(self: Any, statements: list[str]) -> None:
        with removed():
            flush(self, statements)

    operations.execute_sql_flush = flush_without_triggers
