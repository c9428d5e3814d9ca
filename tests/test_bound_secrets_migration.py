"""The migration that binds stored secrets to their rows: every value once, nothing lost, and back again."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection as database
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from connections import keys
from connections.models import AlertChannel, AppCredential, Connection
from connections.services.operations import secret_check, secret_columns
from tests import factories
from tests.api.api_client import Program
from tests.stored_secrets import new_key, plant, stored, under_a_lost_key, using_keys

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
BEFORE, AFTER = ("connections", "0004_roles"), ("connections", "0005_bound_secrets")


def migrate(*targets: tuple[str, str | None]) -> None:
    MigrationExecutor(database).migrate(list(targets))


@pytest.fixture
def newest() -> Iterator[None]:
    """Put the tables back as they should be, whatever happens."""
    yield
    migrate(*MigrationExecutor(database).loader.graph.leaf_nodes())


def legacy(row: Any, column: str) -> str:
    """Return the value as the library stored it before: no key id, no place."""
    text = stored(row, column)
    assert text.startswith("gAAAA")
    return keys.current().decrypt(text).decode()


def test_values_from_before_are_bound_and_open(newest: None, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = factories.make_person("alice")
    connection = factories.make_connection(refresh_token="1.Refresh", access_token="eyJ0.access")
    lost = factories.make_connection(name="Lost", app_registration=connection.app_registration)
    AlertChannel.objects.create(name="Hooks", kind="webhook", host="example.org", url="https://example.org/hook")
    program = Program(alice)
    reply = program.post("teams", {"name": "Robots"}, idempotency_key="one")
    assert reply.status_code == 201

    migrate(BEFORE)
    assert legacy(connection, "refresh_token") == "1.Refresh"
    assert legacy(connection, "access_token") == "eyJ0.access"
    with database.cursor() as cursor:
        cursor.execute("SELECT url FROM connections_alertchannel")
        assert keys.current().decrypt(cursor.fetchone()[0]).decode() == "https://example.org/hook"
    stop_without_a_key(lost)
    monkeypatch.setenv("DISCARD_UNREADABLE_SECRETS", "on")

    migrate(*MigrationExecutor(database).loader.graph.leaf_nodes())
    assert Connection.objects.get(pk=connection.pk).access_token == "eyJ0.access"
    assert AppCredential.objects.get().secret == factories.CLIENT_SECRET
    assert AlertChannel.objects.get().url == "https://example.org/hook"
    repeated = program.post("teams", {"name": "Robots"}, idempotency_key="one")
    assert (repeated.status_code, repeated.json()) == (201, reply.json())
    count = secret_check.count(now=timezone.now())
    assert (count.unreadable, count.altered) == ({"connections_connection.access_token": [lost.pk]}, {})
    assert Connection.objects.values_list("refresh_token", flat=True).get(pk=lost.pk)
    assert Connection.objects.get(pk=connection.pk).identity != connection.identity


def stop_without_a_key(connection: Connection) -> None:
    """Check that the migration changes nothing if a value can't be decrypted."""
    plant(connection, "access_token", under_a_lost_key().partition(":")[2])
    before = stored(connection, "refresh_token")
    with pytest.raises(RuntimeError, match=f"connections_connection.access_token of row {connection.pk}"):
        migrate(AFTER)
    assert stored(connection, "refresh_token") == before
    with using_keys(new_key()), pytest.raises(RuntimeError, match="stored secrets cannot be opened"):
        migrate(AFTER)


def test_the_migration_knows_every_encrypted_column_of_its_time() -> None:
    columns = importlib.import_module("connections.migrations.0005_bound_secrets").COLUMNS
    bound = {(table, column) for table, names in columns.items() for column in names}
    assert bound <= {(field.model._meta.db_table, field.column) for field in secret_columns.secret_fields()}
