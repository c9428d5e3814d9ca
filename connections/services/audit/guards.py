"""The database triggers that refuse changes to the audit trail: create them, and check that they are intact."""

from functools import cache
from importlib import import_module
from typing import Any

from django.db import connection as database

from connections.models import AuditSealing

TABLES = ("connections_auditevent", "connections_auditseal", "connections_tokenfetch")
_ROW_TRIGGER, _TRUNCATE_TRIGGER = 27, 34  # pg_trigger.tgtype: BEFORE UPDATE OR DELETE for each row, and BEFORE TRUNCATE


def unguarded_tables() -> list[str]:
    """Return the tables whose triggers are missing, disabled, altered, or switched off for retention."""
    if _is_retention_open():
        return sorted(TABLES)
    guarded = _guarded_on_postgresql() if database.vendor == "postgresql" else _guarded_on_sqlite()
    return sorted(set(TABLES) - guarded)


def install() -> None:
    """Create the triggers. Safe to repeat."""
    with database.schema_editor() as editor:
        _definition().install(None, editor)


def _definition() -> Any:
    return import_module("connections.migrations.0003_audit_guards")


def _is_retention_open() -> bool:
    """Whether the switch that lets retention delete rows was left on.

    The portal switches it on and off again within one transaction, so nobody else should ever see it on.
    """
    if database.vendor == "sqlite":
        return AuditSealing.objects.filter(retention_open=True).exists()
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('portal.audit_retention', true) = 'on' OR EXISTS (SELECT 1 FROM pg_db_role_setting "
            "WHERE 'portal.audit_retention=on' = ANY(setconfig))"
        )
        return bool(cursor.fetchone()[0])


def _guarded_on_postgresql() -> set[str]:
    """Return the tables on which both triggers are intact.

    A trigger is not intact if it has a condition or calls a function with a different body.
    """
    body = _definition().FUNCTION.split("$$")[1]
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid "
            "WHERE (tgname, tgtype) IN (('portal_audit_guard', %s), ('portal_audit_guard_all', %s)) "
            "AND tgenabled IN ('O', 'A') AND tgqual IS NULL AND prosrc = %s "
            "GROUP BY tgrelid HAVING count(*) = 2",
            [_ROW_TRIGGER, _TRUNCATE_TRIGGER, body],
        )
        return {row[0] for row in cursor.fetchall()}


class _Recorder:
    """Takes the place of a schema editor and collects the statements that create the triggers."""

    connection = database

    def __init__(self) -> None:
        self.statements: set[str] = set()

    def execute(self, statement: str) -> None:
        self.statements.add(statement)


@cache
def _statements_on_sqlite() -> set[str]:
    """Return the statements that create the triggers. Cached, because collecting them takes one query per column."""
    recorder = _Recorder()
    _definition().install(None, recorder)
    return recorder.statements


def _guarded_on_sqlite() -> set[str]:
    expected = _statements_on_sqlite()
    with database.cursor() as cursor:
        cursor.execute("SELECT tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
        intact = [table for table, statement in cursor.fetchall() if statement in expected]
    return {table for table in TABLES if intact.count(table) == 2}
