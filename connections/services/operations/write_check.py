"""Check whether the database can be written to. With a full disk or a stuck lock, reading still works."""

import time

from django.db import connection as database
from django.db import transaction

EVERY = 5.0  # seconds between writes by one process, because anybody can request the readiness check
_PATIENCE_MS = 2000
# This table has rows in every portal. The update writes a row without changing its value.
_WRITE = "UPDATE django_migrations SET name = name WHERE id = (SELECT min(id) FROM django_migrations WHERE app = 'connections')"
_last_success: list[float] = []


def require_writable() -> None:
    """Raise DatabaseError if the database cannot be written to within two seconds."""
    if _last_success and time.monotonic() - _last_success[0] < EVERY:
        return
    _last_success.clear()
    if database.vendor == "sqlite":
        _write_to_sqlite()
    else:
        with transaction.atomic(), database.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {_PATIENCE_MS}")
            cursor.execute(_WRITE)
    _last_success.append(time.monotonic())


def _write_to_sqlite() -> None:
    with database.cursor() as cursor:
        patience = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        try:
            with transaction.atomic():
                cursor.execute(_WRITE)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {patience}")
