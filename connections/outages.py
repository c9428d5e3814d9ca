"""Recognises that the database is temporarily unusable: unreachable, locked, full or read-only."""

import sqlite3

import psycopg
from django.db import InterfaceError, OperationalError
from django.db.utils import InternalError

_FAILURES = (
    OperationalError,
    InterfaceError,
    # From statements that bypass the ORM.
    psycopg.OperationalError,
    psycopg.InterfaceError,
    sqlite3.OperationalError,
)
_READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction: the server has become a standby


def is_database_outage(error: BaseException | None) -> bool:
    """Whether the error only comes from the database being unusable, so that the same request may succeed later."""
    if isinstance(error, _FAILURES):
        return True
    return isinstance(error, InternalError) and getattr(error.__cause__, "sqlstate", "") == _READ_ONLY
