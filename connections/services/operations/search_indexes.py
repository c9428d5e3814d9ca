"""The trigram indexes by which lists are searched on PostgreSQL. Migrations 0017 and 0023 create them if the role may."""

from importlib import import_module
from typing import Any

from django.apps import apps
from django.db import connection as database
from django.db import transaction

from connections.services.operations.checks import Result, ok, warning


def missing() -> list[str]:
    """Return the names of missing indexes. On SQLite none are missing, because it has no such indexes."""
    if database.vendor != "postgresql":
        return []
    with database.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()")
        existing = {name for (name,) in cursor.fetchall()}
    names = (name for definition in _definitions() for name, _, _ in definition.text_indexes())
    return [name for name in names if name not in existing]


def install() -> list[str]:
    """Create the missing indexes, and return those that are still missing because the role may not install pg_trgm."""
    with transaction.atomic(), database.schema_editor() as schema_editor:
        for definition in _definitions():  # the first one creates the extension
            definition.index_texts(apps, schema_editor)
    return missing()


def check() -> Result:
    if database.vendor != "postgresql":
        return ok("SQLite searches without indexes")
    if names := missing():
        action = 'Have a superuser run "CREATE EXTENSION pg_trgm" in the database, then run manage.py search_indexes.'
        return warning(f"{len(names)} indexes for searching are missing, so searches read whole tables", action)
    return ok("lists are searched by trigram indexes")


def _definitions() -> list[Any]:
    return [import_module(f"connections.migrations.{name}") for name in ("0017_growth", "0023_growth_of_lists")]
