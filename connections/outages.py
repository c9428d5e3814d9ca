"""Recognise that the database cannot be used at the moment: gone, locked, full or read-only."""

import sqlite3

import psycopg
from django.db import InterfaceError, OperationalError
from django.db.utils import InternalError

_FAILURES = (
    OperationalError,
    InterfaceError,
    # Statements that are sent past the ORM.
    psycopg.OperationalError,
    psycopg.InterfaceError,
    sqlite3.OperationalError,
)
_READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction: the server has become a standby


def is_database_outage(error: BaseException | None) -> bool:
    """Whether the same request may succeed later, because only the database was in the way."""
    if isinstance(error, _FAILURES):
        return True
    return isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", "") == _READ_ONLY
