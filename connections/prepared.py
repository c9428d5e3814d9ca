"""Prepared statements on PostgreSQL, for the few statements whose planning would take longer than running them."""

from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import connection as database


def rows(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run the statement, prepared after its first uses, and return all its rows. Raises Django's database errors."""
    database.ensure_connection()
    connection: Any = database.connection
    # Django turns prepared statements off. Behind a pooler (portal/postgresql) they stay off, because the next
    # transaction may run where the statement was not prepared.
    connection.prepare_threshold = None if getattr(database, "is_pooled", False) else 5
    with database.wrap_database_errors, psycopg.Cursor(connection) as cursor:
        return list(cursor.execute(statement, parameters).fetchall())
