"""A database of every kept version is migrated to this one: nothing is lost, and everything in it still works."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.db import connection as database
from psycopg import sql

from tests import factories, full_dataset
from tests.deploy.old_database import DATA, KEYS
from tests.environment import ROOT

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow, pytest.mark.only_on("postgres")]
# Tables that a migration renamed.
_NOW_CALLED = {"connections_auditview": "connections_savedview"}
_SECRETS = """
import django, json
django.setup()
from connections.models import AlertChannel, AppCredential, Connection
print(json.dumps([
    Connection.objects.get(name="Invoices", owner__username="bob").refresh_token,
    AppCredential.objects.filter(kind="secret").order_by("pk").first().secret,
    AlertChannel.objects.get().url,
]))
"""


@pytest.fixture(params=sorted(DATA.glob("*.sql.gz")), ids=lambda path: path.name.removesuffix(".sql.gz"))
def old(request: Any, db: None) -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """The old database as environment variables, and how many rows each of its tables has."""
    path: Path = request.param
    name = f"{database.settings_dict['NAME']}_old"
    with database.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    try:
        before, _, _ = os.environ["DATABASE_URL"].partition("?")
        url = f"{before.rpartition('/')[0]}/{name}"
        with psycopg.connect(**database.get_connection_params() | {"dbname": name, "autocommit": True}) as session:
            session.execute(gzip.decompress(path.read_bytes()))
            counts = {table: count_rows(session, table) for table in tables(session)}
            before_migration = Shape.of(session)
        yield {**os.environ, **KEYS, "DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL}, counts
        with psycopg.connect(**database.get_connection_params() | {"dbname": name}) as session:
            now = {table: count_rows(session, _NOW_CALLED.get(table, table)) for table in counts}
            unusable = before_migration.unusable_after(Shape.of(session))
            lost = {table: count for table, count in counts.items() if now[table] < count}
        assert lost == {}, "the migrations removed rows"
        version = path.name.removesuffix(".sql.gz")
        assert not unusable or says_stop(version), f"programs of {version} can't go on: {unusable}"
    finally:
        with database.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


_SHAPE = """
SELECT table_name || '.' || column_name, data_type || CASE
    WHEN is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' AND is_generated = 'NEVER' THEN ' required'
    ELSE '' END
FROM information_schema.columns WHERE table_schema = 'public'
"""
# Checks, and what makes rows unique: both may refuse what an old program writes, or what it relies on may be gone.
_RULES = """
SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'
    AND connamespace = 'public'::regnamespace
UNION SELECT tablename || ': ' || regexp_replace(indexdef, '^.* USING', 'UNIQUE') FROM pg_indexes
    WHERE schemaname = 'public' AND indexdef LIKE 'CREATE UNIQUE%'
"""


@dataclass(frozen=True)
class Shape:
    """What a program relies on: the type of each column, and the rules for rows."""

    columns: dict[str, str]
    rules: set[str]

    @classmethod
    def of(cls, session: "psycopg.Connection[Any]") -> "Shape":
        return cls(dict(session.execute(_SHAPE).fetchall()), {rule for (rule,) in session.execute(_RULES).fetchall()})

    def unusable_after(self, now: "Shape") -> list[str]:
        """Return what a program that knows this shape can't use any more: empty if both versions can run together."""
        old_tables = {column.partition(".")[0] for column in self.columns}

        def is_old(name: str) -> bool:
            return name.partition(".")[0].partition(":")[0] in old_tables

        gone = {
            column
            for column, kind in self.columns.items()
            if now.columns.get(column, "").split()[:1] != kind.split()[:1]
        }
        new = now.columns.keys() - self.columns.keys()
        required = {column for column in new if is_old(column) and now.columns[column].endswith(" required")}
        return sorted(gone | required | {rule for rule in self.rules ^ now.rules if is_old(rule)})


def says_stop(version: str) -> bool:
    """Whether the changelog of a newer version tells whoever upgrades to stop all processes."""
    newer = (ROOT / "CHANGELOG.md").read_text().partition(f"\n## {version}\n")[0]
    return "stop all processes" in newer


def tables(session: "psycopg.Connection[Any]") -> list[str]:
    rows = session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return [name for (name,) in rows if name.startswith("connections_")]


def count_rows(session: "psycopg.Connection[Any]", table: str) -> int:
    row = session.execute(sql.SQL("SELECT count(*) FROM public.{}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0


def run(environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_an_old_database_is_migrated(old: tuple[dict[str, str], dict[str, int]]) -> None:
    environment, counts = old
    assert sum(counts.values()) > 50
    migrated = run(environment, "manage.py", "migrate", "--noinput", "--verbosity=0")
    assert migrated.returncode == 0, migrated.stderr
    checks = json.loads(run(environment, "manage.py", "doctor", "--json").stdout)["checks"]
    states = {check["name"]: check for check in checks}
    for name in ("database", "migrations", "audit_guards", "encryption_keys", "restore"):
        assert states[name]["state"] == "ok", states[name]
    read = run(environment, "-c", _SECRETS)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == [
        full_dataset.REFRESH_TOKEN, factories.CLIENT_SECRET, full_dataset.CHANNEL_URL,
    ]  # fmt: skip
    verified = run(environment, "manage.py", "audit_verify")
    assert (verified.returncode, "Intact" in verified.stdout) == (0, True), verified.stdout + verified.stderr


def test_only_what_an_old_program_can_go_on_with_counts_as_added() -> None:
    old = Shape({"a.id": "bigint", "a.name": "text required", "b.id": "bigint"}, {"a: CHECK (id > 0)"})
    added = {"a.note": "text", "c.id": "bigint required"}
    assert old.unusable_after(Shape(old.columns | added, old.rules | {"c: CHECK (id > 0)"})) == []
    stricter = Shape(old.columns | {"a.kind": "text required"}, old.rules | {"a: UNIQUE btree (name)"})
    assert old.unusable_after(stricter) == ["a.kind", "a: UNIQUE btree (name)"]
    changed = Shape({"a.id": "bigint", "a.name": "integer required"}, set())
    assert old.unusable_after(changed) == ["a.name", "a: CHECK (id > 0)", "b.id"]
