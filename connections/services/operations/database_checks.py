"""Checks of the database: its version, role, size and schema, and the protection of the audit trail."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from django.conf import settings
from django.db import connection as database
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from connections.services.audit import guards
from connections.services.operations import secret_columns
from connections.services.operations.checks import Result, ok, problem, warning

OLDEST_POSTGRESQL = 14
_PER_PROCESS = 18  # connections that one web process opens besides its threads, for refreshes and token calls


def version() -> Result:
    if database.vendor == "sqlite":
        return warning("SQLite, which is for trying the portal and for development", "Use PostgreSQL: DATABASE_URL.")
    rows = _row("SELECT current_setting('server_version'), current_setting('server_encoding')")
    number, encoding = str(rows[0]), str(rows[1])
    if int(number.partition(".")[0]) < OLDEST_POSTGRESQL:
        return problem(f"PostgreSQL {number}", f"Upgrade it to PostgreSQL {OLDEST_POSTGRESQL} or newer.")
    if encoding != "UTF8":
        return problem(f"the database stores text as {encoding}", "Recreate it with ENCODING 'UTF8'.")
    return ok(f"PostgreSQL {number}, {encoding}")


def role() -> Result:
    """Check that the portal doesn't connect as a superuser, who can bypass the triggers of the audit trail."""
    if database.vendor == "sqlite":
        return ok("SQLite has no roles")
    name, is_super, bypasses = _row("SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    if is_super or bypasses:
        action = "Use a separate role without SUPERUSER and BYPASSRLS (docs/install.md)."
        return warning(f"the portal connects as {name}, a superuser", action)
    return ok(f"the portal connects as {name}, which isn't a superuser")


def migrations() -> Result:
    """Check that the tables fit this version of the program.

    Pages of an older version would fail where columns have been removed.
    """
    disk = _disk_migrations()
    applied = set(MigrationRecorder(database).migration_qs.values_list("app", "name"))
    missing = [
        node
        for node, migration in sorted(disk.graph_migrations.items())
        if node not in applied and not (migration.replaces and applied.issuperset(migration.replaces))
    ]
    if missing:
        app, name = missing[0]
        return problem(f"{len(missing)} migrations are missing, first {app}.{name}", "Run manage.py migrate.")
    unknown = sorted(name for app, name in applied if app == "connections" and (app, name) not in disk.names)
    if unknown:
        return problem(
            f"the database is newer than this program: it has {unknown[-1]}",
            "Install the version of the portal that the other processes run, and restart this one.",
        )
    return ok("all migrations are applied")


@dataclass(frozen=True, slots=True)
class _DiskMigrations:
    """The migrations of this version of the program. ``graph_migrations`` omits those that others replace."""

    names: frozenset[tuple[str, str]]
    graph_migrations: dict[tuple[str, str], Migration]


@cache
def _disk_migrations() -> _DiskMigrations:
    loader = MigrationLoader(None)
    return _DiskMigrations(frozenset(loader.disk_migrations), dict(loader.graph.nodes))


def connection_limit() -> Result:
    """Check that PostgreSQL accepts as many connections as the web processes may open. A pooler limits these itself."""
    if database.vendor == "sqlite":
        return ok("SQLite has no connection limit")
    database.ensure_connection()
    if getattr(database, "is_pooled", False):
        return ok("behind a pooler, without prepared statements")
    most, reserved = _row(
        "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int"
    )
    needed = settings.WEB_WORKERS * (settings.WEB_THREADS + _PER_PROCESS)
    if needed > most - reserved:
        return problem(
            f"one web machine may need {needed} connections, and PostgreSQL allows {most - reserved}",
            "Increase max_connections in PostgreSQL, reduce WEB_WORKERS or WEB_THREADS, or use PgBouncer.",
        )
    return ok(f"one web machine needs up to {needed} of {most - reserved} connections")


def audit_guards() -> Result:
    """Check the triggers that refuse changes to the audit trail and to the identities of secrets."""
    action = "Run manage.py audit_guards, and find out who can change the database."
    if tables := guards.unguarded_tables():
        return problem(f"no trigger protects rows of {', '.join(tables)} from changes", action)
    if tables := secret_columns.tables_without_trigger():
        return problem(f"stored secrets can be moved to other rows in {', '.join(tables)}", action)
    return ok("the audit trail and stored secrets are protected by triggers")


def _row(query: str) -> tuple[Any, ...]:
    with database.cursor() as cursor:
        cursor.execute(query)
        row: tuple[Any, ...] = cursor.fetchone()
    return row
