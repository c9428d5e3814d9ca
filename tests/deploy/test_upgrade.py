"""A database of every kept version is migrated to this one: nothing is lost, and everything in it still works."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
        yield {**os.environ, **KEYS, "DATABASE_URL": url, "REDIS_URL": settings.REDIS_URL}, counts
        with psycopg.connect(**database.get_connection_params() | {"dbname": name}) as session:
            now = {table: count_rows(session, _NOW_CALLED.get(table, table)) for table in counts}
            lost = {table: count for table, count in counts.items() if now[table] < count}
        assert lost == {}, "the migrations removed rows"
    finally:
        with database.cursor() as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


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
    found = json.loads(run(environment, "manage.py", "doctor", "--json").stdout)["checks"]
    states = {check["name"]: check for check in found}
    for name in ("database", "migrations", "audit_guards", "encryption_keys", "restore"):
        assert states[name]["state"] == "ok", states[name]
    assert json.loads(run(environment, "-c", _SECRETS).stdout) == [
        full_dataset.REFRESH_TOKEN, factories.CLIENT_SECRET, full_dataset.CHANNEL_URL,
    ]  # fmt: skip
    verified = run(environment, "manage.py", "audit_verify")
    assert (verified.returncode, "Intact" in verified.stdout) == (0, True), verified.stdout + verified.stderr
