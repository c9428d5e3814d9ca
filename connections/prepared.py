"""Prepared statements on PostgreSQL, for the few statements that take longer to plan than to run."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
from django.db import connection as database

from connections import tracing


def rows(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run the statement and return all rows. It is prepared after its first uses. Raises Django's database errors.

    The values are those of psycopg, not of Django: JSON is already parsed.
    """
    database.ensure_connection()
    connection: Any = database.connection
    # Django turns prepared statements off. Behind a pooler (portal/postgresql), they stay off, because the next
    # transaction may use a server connection that has not prepared them.
    connection.prepare_threshold = None if getattr(database, "is_pooled", False) else 5
    with database.wrap_database_errors, psycopg.Cursor(connection) as cursor:
        # Binary values are parsed in C, whereas Django's own loaders of dates and JSON, for text alone, are in Python.
        execute = partial(tracing.trace_query, _execute) if tracing.is_on() else _execute
        execute(statement, parameters, False, {"connection": database, "cursor": cursor})
        return list(cursor.fetchall())


def _execute(statement: Any, parameters: Sequence[Any], many: bool, context: dict[str, Any]) -> None:
    context["cursor"].execute(statement, parameters, binary=True)
