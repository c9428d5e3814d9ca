"""Rotation: every column, newer values kept, killed and resumed, and which keys the processes have."""

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection as database
from django.utils import timezone

from connections import keys
from connections.errors import OutdatedKeys, UnreadableSecret
from connections.models import AppRegistration, AuditEvent, Connection, Delivery, Incident, KeyUsage, RunningProcess
from connections.services.operations import audit_watch, key_rotation, running_keys, secret_check, secret_columns
from connections.services.registry import credential_checks
from connections.services.tokens import apply_results, batch_client, scheduler
from portal.sandbox.client import Control
from tests import factories, full_dataset
from tests.api.api_client import Program, problem
from tests.stored_secrets import encrypted, new_key, plant, stored, under_a_lost_key, using_keys

NOW = timezone.now()
OLD, NEW = new_key(), new_key()


pytestmark = pytest.mark.django_db


@pytest.fixture
def contoso(alice: Any, bob: Any, carol: Any, dave: Any) -> Iterator[full_dataset.World]:
    """A small organisation whose secrets are under OLD."""
    with using_keys(OLD):
        yield full_dataset.make({"alice": alice, "bob": bob, "carol": carol, "dave": dave})


def ids_in_use() -> set[str]:
    return {
        keys.id_in(value.ciphertext)
        for field in secret_columns.secret_fields()
        for batch in secret_columns.values(field, batch=100)
        for value in batch
    }


def rotate(**options: Any) -> key_rotation.Rotation:
    return key_rotation.rotate(now=NOW, report=lambda column, done: None, **options)


def test_every_column_is_encrypted_anew_and_the_old_key_is_not_needed_any_more(contoso: full_dataset.World) -> None:
    versions = dict(Connection.objects.values_list("pk", "token_version"))
    with using_keys(NEW, OLD):
        before = secret_check.count(now=NOW)
        rotation = rotate(batch=2)
        assert rotation.rotated == before.by_key[keys.key_id(OLD)] > 5
    assert ids_in_use() == {keys.key_id(NEW)}
    with using_keys(NEW):
        count = secret_check.count(now=NOW)
        assert (count.unreadable, count.altered) == ({}, {})
        assert Connection.objects.get(pk=contoso.connection.pk).access_token == full_dataset.ACCESS_TOKEN
    assert dict(Connection.objects.values_list("pk", "token_version")) == versions
    event = AuditEvent.objects.get(action="encryption_keys.rotated")
    assert event.changes == {"key": keys.key_id(NEW), "values": rotation.rotated, "left": 0}


def test_a_second_run_has_nothing_to_do(contoso: full_dataset.World) -> None:
    with using_keys(NEW, OLD):
        rotate()
        assert rotate().rotated == 0
    assert AuditEvent.objects.filter(action="encryption_keys.rotated").count() == 1


def test_a_run_killed_in_the_middle_is_resumed(contoso: full_dataset.World) -> None:
    class KilledError(Exception):
        pass

    def kill(column: str, done: int) -> None:
        raise KilledError

    with using_keys(NEW, OLD):
        with pytest.raises(KilledError):
            key_rotation.rotate(now=NOW, report=kill, batch=1)
        assert ids_in_use() == {keys.key_id(OLD), keys.key_id(NEW)}
        rotate()
    assert ids_in_use() == {keys.key_id(NEW)}


def test_a_newer_value_is_never_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    with using_keys(OLD):
        connection = factories.make_connection()
    replace = secret_columns.replace
    fresh: list[Any] = []

    def written_meanwhile(field: Any, changes: Any) -> int:
        if field.name == "refresh_token" and not fresh:
            with using_keys(OLD):
                token = encrypted(connection, refresh_token="1.ANewerOne")
            Connection.objects.filter(pk=connection.pk).update(**token)
            fresh.append(token)
        return replace(field, changes)

    monkeypatch.setattr(secret_columns, "replace", written_meanwhile)
    monkeypatch.setattr(key_rotation, "PAUSE", 0)
    with using_keys(NEW, OLD):
        assert rotate().left == 0
        assert Connection.objects.get(pk=connection.pk).refresh_token == "1.ANewerOne"
    assert ids_in_use() == {keys.key_id(NEW)}


def test_a_refresh_that_was_on_its_way_is_stored_after_the_rotation(sandbox: Control) -> None:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    with using_keys(OLD):
        connection = factories.make_connection(refresh_token=grant["refresh_tokens"][0], refresh_after=NOW)
        used = connection.refresh_token
    with using_keys(NEW, OLD):
        results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=1))
        rotate()
        assert apply_results.apply(results, now=NOW).renewed == 1
        after: Any = Connection.objects.get(pk=connection.pk)
        assert after.previous_refresh_token == used != after.refresh_token
        assert secret_check.count(now=NOW).altered == {}
    assert ids_in_use() == {keys.key_id(NEW)}


def test_what_no_key_opens_is_left_and_named(contoso: full_dataset.World) -> None:
    lost = under_a_lost_key()
    plant(contoso.connection, "access_token", lost)
    with using_keys(NEW, OLD):
        rotation = rotate()
    assert rotation.unreadable == {"connections_connection.access_token": [contoso.connection.pk]}
    assert stored(contoso.connection, "access_token") == lost


def test_the_rotation_waits_until_every_process_knows_the_key(contoso: full_dataset.World) -> None:
    running_keys.announce("worker host:1", now=timezone.now())
    with using_keys(NEW, OLD):
        running_keys.announce("web host:2", now=timezone.now())
        with pytest.raises(key_rotation.KeyNotKnownEverywhere, match="worker host:1"):
            rotate()
        with pytest.raises(CommandError, match="worker host:1"):
            call_command("keys", check=keys.key_id(NEW))
        with pytest.raises(CommandError, match="worker host:1"):
            call_command("rotate_keys")
    assert ids_in_use() == {keys.key_id(OLD)}
    with using_keys(NEW, OLD):
        running_keys.announce("worker host:1", now=timezone.now())
        call_command("keys", check=keys.key_id(NEW), stdout=StringIO())
        assert rotate().rotated


def test_a_process_that_has_ended_is_not_waited_for(contoso: full_dataset.World) -> None:
    running_keys.announce("worker host:1", now=NOW - timedelta(minutes=3))
    running_keys.announce("web host:2", now=NOW)
    running_keys.withdraw("web host:2")
    with using_keys(NEW, OLD):
        assert rotate().rotated
        with pytest.raises(CommandError, match="No process"):
            call_command("keys", check=keys.key_id(NEW))


def test_the_commands_say_which_key_may_be_removed(contoso: full_dataset.World) -> None:
    def say(command: str) -> str:
        output = StringIO()
        call_command(command, stdout=output)
        return output.getvalue()

    running_keys.announce("worker host:1", now=timezone.now())
    with using_keys(OLD, NEW):
        running_keys.announce("worker host:1", now=timezone.now())
    with using_keys(NEW, OLD):
        assert f"Key {keys.key_id(OLD)}: " in say("keys")
        assert "still needed: run manage.py rotate_keys" in say("keys")
        assert "connections_connection.access_token: " in say("rotate_keys")
        assert f"Key {keys.key_id(OLD)}: 0 values; still needed: worker host:1 encrypts with it" in say("keys")
        running_keys.announce("worker host:1", now=timezone.now())
        text = say("keys")
    assert f"Key {keys.key_id(OLD)}: 0 values; no value needs it, it can be removed" in text
    assert OLD not in text
    assert NEW not in text


def test_the_command_names_rows_that_cannot_be_used(contoso: full_dataset.World) -> None:
    pk = contoso.connection.pk
    plant(contoso.connection, "access_token", under_a_lost_key())
    plant(contoso.connection, "previous_refresh_token", stored(contoso.connection, "refresh_token"))
    output = StringIO()
    with pytest.raises(CommandError, match="cannot be used"):
        call_command("keys", stdout=output)
    assert f"No key opens: connections_connection.access_token, rows {pk}" in output.getvalue()
    assert f"Moved or altered: connections_connection.previous_refresh_token, rows {pk}" in output.getvalue()


@pytest.mark.django_db(transaction=True)  # SQLite can change its schema only outside of transactions
def test_a_missing_trigger_is_named_and_installed_again(contoso: full_dataset.World) -> None:
    assert secret_columns.tables_without_trigger() == []
    table = "connections_storedreply"
    on_table = f" ON {table}" if database.vendor == "postgresql" else ""
    name = "portal_identity_guard" if on_table else f"{table}_keep_identity"
    with database.cursor() as cursor:
        cursor.execute(f"DROP TRIGGER {name}{on_table}")
    audit_watch.run(timezone.now)
    opened = Incident.objects.get(key=audit_watch.IDENTITIES)
    assert opened.is_open
    assert table in opened.cause
    output = StringIO()
    call_command("keys", stdout=output)
    assert f"The identities of {table} can be changed" in output.getvalue()
    with using_keys(OLD):
        call_command("audit_guards", stdout=output)
    assert f"Guarded again: {table}." in output.getvalue()
    assert secret_columns.tables_without_trigger() == []
    audit_watch.run(timezone.now)
    assert not factories.reloaded(opened).is_open


# --- A process with old settings ------------------------------------------------------------------


@pytest.fixture
def newer(db: None) -> Connection:
    """A due connection whose tokens were written by a process with a newer key."""
    with using_keys(OLD):
        app = factories.make_app_registration()
    with using_keys(NEW, OLD):
        running_keys.announce("worker newer:1", now=timezone.now())
        return factories.make_connection(app_registration=app, refresh_after=NOW)


def test_a_key_that_others_have_is_no_incident_but_old_settings(sandbox: Control, newer: Connection) -> None:
    with using_keys(OLD):
        assert scheduler.sweep(now=NOW).flagged == 0
    assert not Incident.objects.exists()
    assert not Delivery.objects.exists()
    newer.refresh_from_db(fields=["trouble_code", "trouble_at", "refresh_after", "status"])
    assert (newer.trouble_code, newer.trouble_at, newer.status) == ("", None, "active")
    assert newer.refresh_after is not None
    assert NOW < newer.refresh_after < NOW + timedelta(minutes=1)
    assert sandbox.calls(limit=0)["by_endpoint"].get("token", 0) == 0


def test_a_key_that_nobody_has_is_an_incident(sandbox: Control, newer: Connection) -> None:
    RunningProcess.objects.all().delete()
    with using_keys(OLD):
        scheduler.sweep(now=NOW)
    assert Incident.objects.get().kind == "encryption_key"


def test_the_error_of_old_settings_says_so(newer: Connection, caplog: pytest.LogCaptureFixture) -> None:
    with using_keys(OLD):
        with pytest.raises(UnreadableSecret) as refused:
            Connection.objects.values_list("access_token").get(pk=newer.pk)
        error = running_keys.explain(refused.value, now=NOW)
    assert isinstance(error, OutdatedKeys)
    assert (error.status, error.retry_after) == (503, 30)
    assert "old encryption keys" in caplog.text
    assert NEW not in caplog.text


def test_the_token_api_answers_that_the_settings_are_old(newer: Connection) -> None:
    assert newer.owner.username == "bob"
    with using_keys(OLD):
        response = Program(newer.owner).get(f"connections/{newer.pk}/token")
    assert problem(response) == (503, "encryption_keys_outdated")
    assert response["Retry-After"] == "30"
    assert not Incident.objects.exists()


# --- Counting -------------------------------------------------------------------------------------


def test_a_moved_value_is_found_before_anybody_reads_it_and_the_incident_closes(contoso: full_dataset.World) -> None:
    own = stored(contoso.connection, "access_token")
    plant(contoso.connection, "access_token", stored(contoso.connection, "refresh_token"))
    secret_check.count(now=NOW)
    secret_check.count(now=NOW)
    incident = Incident.objects.get(kind="altered_secret")
    assert incident.is_open
    assert KeyUsage.objects.get(altered=True).count == 1

    plant(contoso.connection, "access_token", own)
    secret_check.count(now=NOW + timedelta(hours=1))
    incident.refresh_from_db()
    assert not incident.is_open


def test_an_incident_about_a_removed_row_closes(contoso: full_dataset.World) -> None:
    connection = factories.make_connection(name="Another", app_registration=contoso.app)
    plant(connection, "access_token", stored(connection, "refresh_token"))
    secret_check.count(now=NOW)
    connection.delete()
    secret_check.count(now=NOW)
    assert not Incident.objects.get(kind="altered_secret").is_open


def test_an_altered_credential_beside_a_readable_one_is_reported(sandbox: Control, app: AppRegistration) -> None:
    old = factories.make_secret(app, "another secret")
    plant(old, "secret", stored(factories.make_connection(app_registration=app), "access_token"))
    assert len(credential_checks.live_applications(app)) == 1
    assert not Incident.objects.exists()
    secret_check.report_noted(now=NOW)
    assert f"connections_appcredential.secret, row {old.pk}" in Incident.objects.get().cause
    secret_check.report_noted(now=NOW)
    assert Incident.objects.count() == 1


def test_everything_is_counted_once_an_hour(contoso: full_dataset.World) -> None:
    secret_check.count_due(now=NOW)
    counted = dict(KeyUsage.objects.values_list("pk", "count"))
    assert counted
    secret_check.count_due(now=NOW + timedelta(minutes=59))
    assert dict(KeyUsage.objects.values_list("pk", "count")) == counted
    secret_check.count_due(now=NOW + timedelta(minutes=60))
    assert set(KeyUsage.objects.values_list("counted_at", flat=True)) == {NOW + timedelta(minutes=60)}
