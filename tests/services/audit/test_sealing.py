"""Sealing the audit trail, and detecting any manipulation of what was sealed."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction
from django.db import connection as database
from django.db import connections as databases
from django.db.models import Model

from connections import audit
from connections.models import ApiKey, AuditEvent, AuditSeal, Connection, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import (
    guards,
    seal_format,
    sealing,
    serialization,
    verification,
    verification_checks,
    verification_records,
)
from tests import audit_triggers, factories

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
LATER = NOW + timedelta(minutes=10)
# No table has a row with this id, even if many tests have used the same database.
UNUSED_ID = 987_654_321


@pytest.fixture
def key(bob: User) -> ApiKey:
    return factories.make_key(bob)[0]


def record_events(connection: Connection, count: int, **facts: Any) -> None:
    for number in range(count):
        audit.record(AuditAction.CONNECTION_CHANGED, connection, actor=connection.owner, changes={"n": number, **facts})


@pytest.fixture
def sealed(connection: Connection, key: ApiKey) -> Connection:
    """Four seals: two of ten events, one of five events, and one of four token requests."""
    audit.origin.set(audit.Origin("6f1c9a51-8c0f-4ac4-a7a1-d3a2b7ab13b7", "10.1.2.3"))
    try:
        record_events(connection, 25, text="ünïcode “x”", half=[0.5, None])
    finally:
        audit.origin.set(audit.Origin())
    assert sealing.seal_due(LATER, batch=10) == 3
    for minute in range(4):
        api_keys.record_token_request(key, connection, address="10.9.9.9", now=NOW - timedelta(minutes=minute))
    assert sealing.seal_due(LATER, batch=10) == 1
    assert verification.verify_read_only() == (29, [])
    return connection


def ids(seal: int) -> list[int]:
    row = AuditSeal.objects.get(number=seal)
    events = AuditEvent.objects.filter(pk__gt=row.events_after, pk__lte=row.events_upto)
    return list(events.order_by("pk").values_list("pk", flat=True))


def tamper(statement: str, *parameters: Any) -> None:
    """Change the database as a database administrator could."""
    with audit_triggers.removed(), database.cursor() as cursor:
        cursor.execute(statement, parameters)
        assert cursor.rowcount, "nothing was changed"


def findings() -> list[tuple[int, str]]:
    """Return the seal and the kind of every finding."""
    return [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]]


def plant(*pks: int) -> None:
    """Insert events with these ids."""
    events = [AuditEvent(pk=pk, action="x.y", target_type="T", target_name="t") for pk in pks]
    AuditEvent.objects.bulk_create(events)


def swap(first: int, second: int) -> None:
    for before, after in ((first, -1), (second, first), (-1, second)):
        tamper("UPDATE connections_auditevent SET id = %s WHERE id = %s", after, before)


def test_every_event_is_sealed_once_and_in_order(connection: Connection) -> None:
    assert sealing.seal_due(NOW) == 0
    record_events(connection, 25)
    assert sealing.count_unsealed() == 25
    assert sealing.seal_due(NOW, batch=10) == 3
    assert sealing.seal_due(NOW, batch=10) == 0
    assert sealing.count_unsealed() == 0
    first, second, third = AuditSeal.objects.order_by("number")
    assert [seal.events_count for seal in (first, second, third)] == [10, 10, 5]
    assert (first.previous_hash, second.previous_hash) == (seal_format.GENESIS_HASH, first.hash)
    assert third.events_upto == AuditEvent.objects.latest("pk").pk
    assert third.summary == {"connection.changed": 5}


def test_token_requests_are_sealed_after_their_minute_and_never_change(connection: Connection, key: ApiKey) -> None:
    for _ in range(3):
        api_keys.record_token_request(key, connection, address=None, now=NOW)
    assert sealing.seal_due(NOW + timedelta(seconds=60)) == 0
    assert sealing.seal_due(NOW + timedelta(seconds=90)) == 1
    api_keys.record_token_request(key, connection, address=None, now=NOW)
    assert list(TokenFetch.objects.order_by("pk").values_list("count", "seal")) == [(3, 1), (1, None)]
    assert sealing.seal_due(LATER) == 1
    assert AuditSeal.objects.get(number=1).summary == {AuditAction.CONNECTION_TOKEN_FETCHED: 3}
    assert findings() == []


def test_token_requests_dated_in_the_future_are_sealed_at_once(connection: Connection, key: ApiKey) -> None:
    api_keys.record_token_request(key, connection, address=None, now=NOW + timedelta(days=400))
    assert sealing.seal_due(NOW) == 1


def test_the_chain_survives_the_deletion_of_people_and_connections(sealed: Connection, bob: User) -> None:
    sealed.delete()
    bob.delete()
    assert not AuditEvent.objects.filter(actor__isnull=False).exists()
    assert not TokenFetch.objects.filter(key__isnull=False).exists()
    assert findings() == []


def test_a_line_is_json_with_sorted_keys(connection: Connection) -> None:
    event = audit.record(
        AuditAction.CONNECTION_CHANGED, connection, actor=connection.owner, changes={"z": "ü", "a": [1, 0.5]}, at=NOW
    )
    (row,) = serialization.rows(serialization.events(), "id = %s", [event.pk])
    line = serialization.events().line(row)
    facts = {
        "kind": "event",
        "id": event.pk,
        "at": "2026-11-25T12:00:30.000000+00:00",
        "action": "connection.changed",
        "outcome": "done",
        "actor_id": connection.owner_id,
        "actor_name": "Bob Member <bob>",
        "target_type": "Connection",
        "target_id": str(connection.pk),
        "target_name": "Invoices",
        "changes": {"z": "ü", "a": [1, 0.5]},
        "owner_id": connection.owner_id,
        "request_id": "",
        "address": None,
    }
    assert line == json.dumps(facts, sort_keys=True, separators=(",", ":"))
    sealing.seal_due(NOW)
    assert AuditSeal.objects.get().events_hash == hashlib.sha256(f"{line}\n".encode()).hexdigest()


EVENT_COLUMNS = {
    "at": "2020-01-01 00:00:00",
    "action": "connection.removed",
    "outcome": "denied",
    "actor_ref": UNUSED_ID,
    "actor_name": "Somebody else",
    "target_type": "Tenant",
    "target_id": "4711",
    "target_name": "Something else",
    "changes": '{"n": 77}',
    "owner_id": UNUSED_ID,
    "request_id": "another",
    "address": "10.0.0.1",
}


@pytest.mark.parametrize("seal", [1, 2, 3])
@pytest.mark.parametrize("column", EVENT_COLUMNS)
def test_altering_any_column_of_an_event_is_detected(sealed: Connection, column: str, seal: int) -> None:
    victim = ids(seal)[2]
    tamper(f"UPDATE connections_auditevent SET {column} = %s WHERE id = %s", EVENT_COLUMNS[column], victim)
    (first, *_) = verification.verify_read_only()[1]
    change = "refers to a different object" if column == "actor_ref" else "was altered"
    assert (first.seal, first.kind, first.what) == (seal, "altered", f"Event {victim} {change}.")


@pytest.mark.parametrize("value", [None, "other"])
def test_changing_the_actor_of_an_event_is_detected(sealed: Connection, dave: User, value: str | None) -> None:
    tamper("UPDATE connections_auditevent SET actor_id = %s WHERE id = %s", dave.pk if value else None, ids(2)[0])
    assert findings() == [(2, "altered")]


def test_impossible_values_are_detected_and_do_not_stop_the_check(sealed: Connection) -> None:
    planted: list[tuple[str, Any]]
    if database.vendor == "postgresql":
        planted = [("at", "infinity"), ("at", "0044-03-15 12:00:00 BC"), ("address", "10.1.2.3/8"), ("changes", "[]")]
    else:
        planted = [("at", "yesterday"), ("changes", "[]"), ("owner_id", "bob"), ("target_name", b"\x00\xff")]
    for column, value in planted:
        with transaction.atomic():
            tamper(f"UPDATE connections_auditevent SET {column} = %s WHERE id = %s", value, ids(2)[3])
            assert findings() == [(2, "altered")], column
            transaction.set_rollback(True)


@pytest.mark.parametrize("seal", [1, 2, 3])
def test_deleting_any_event_is_detected(sealed: Connection, seal: int) -> None:
    for victim in ids(seal):
        with transaction.atomic():
            tamper("DELETE FROM connections_auditevent WHERE id = %s", victim)
            (finding,) = verification.verify_read_only()[1]
            assert (finding.seal, finding.kind, finding.what) == (seal, "removed", f"Event {victim} was removed.")
            transaction.set_rollback(True)


def test_inserting_an_event_among_sealed_ones_is_detected(sealed: Connection) -> None:
    first, *_ = ids(2)
    tamper("DELETE FROM connections_auditevent WHERE id = %s", first)
    plant(first)
    assert findings() == [(2, "altered")]
    for pk in (0, -7):
        with transaction.atomic():
            plant(pk)
            assert (1, "inserted") in findings()
            transaction.set_rollback(True)


@pytest.mark.only_on("postgres")  # SQLite continues from the highest existing id
def test_an_event_with_a_future_id_is_detected_and_does_not_stop_sealing(sealed: Connection) -> None:
    plant(2**40)
    record_events(sealed, 2)
    assert sealing.seal_due(LATER) == 1
    after, (finding,) = AuditSeal.objects.count(), verification.verify_read_only()[1]
    assert AuditEvent.objects.filter(pk__gt=AuditSeal.objects.get(number=after).events_upto).count() == 1
    assert (finding.seal, finding.kind) == (after + 1, "inserted")
    assert finding.what == f"Event {2**40} was inserted: the database never issued its number."


def test_inserting_into_a_gap_is_detected(connection: Connection) -> None:
    record_events(connection, 3)
    with transaction.atomic():
        record_events(connection, 1)
        gap = AuditEvent.objects.latest("pk").pk
        transaction.set_rollback(True)
    if database.vendor == "sqlite":
        tamper("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'connections_auditevent'")
    record_events(connection, 3)
    sealing.seal_due(NOW)
    assert findings() == []
    plant(gap)
    (finding,) = verification.verify_read_only()[1]
    assert (finding.kind, finding.what) == ("inserted", f"Event {gap} was inserted.")


def test_swapping_two_events_is_detected(sealed: Connection) -> None:
    first, second = ids(2)[1], ids(2)[4]
    swap(first, second)
    (finding,) = verification.verify_read_only()[1]
    assert (finding.seal, finding.kind) == (2, "reordered")
    assert finding.what == f"Event {first} and {second} changed places."


def test_swapping_events_of_different_seals_is_detected_in_both(sealed: Connection) -> None:
    swap(ids(1)[2], ids(3)[1])
    assert findings() == [(1, "altered"), (3, "altered")]


def test_changing_the_id_of_an_event_is_detected(sealed: Connection) -> None:
    tamper("UPDATE connections_auditevent SET id = 0 WHERE id = %s", ids(2)[1])
    assert findings() == [(1, "inserted"), (2, "removed")]


FETCH_COLUMNS = {
    "key_ref": UNUSED_ID,
    "key_name": "Another",
    "owner_name": "Somebody else",
    "connection_ref": UNUSED_ID,
    "connection_name": "Another",
    "minute": "2020-01-01 00:00:00",
    "address": "10.0.0.1",
    "resource": "azure",
    "count": 77,
    "reference": "another",
    "seal": 1,
    "key_id": None,
    "connection_id": None,
    "id": UNUSED_ID,
}


@pytest.mark.parametrize("column", FETCH_COLUMNS)
def test_altering_any_column_of_a_token_request_is_detected(sealed: Connection, column: str) -> None:
    victim = TokenFetch.objects.order_by("pk")[1].pk
    tamper(f'UPDATE connections_tokenfetch SET "{column}" = %s WHERE id = %s', FETCH_COLUMNS[column], victim)
    assert findings()[0][0] == (1 if column == "seal" else 4)


@pytest.mark.parametrize("seal", [None, 77, 0])
def test_removing_a_token_request_from_its_seal_is_detected(sealed: Connection, seal: int | None) -> None:
    victim = TokenFetch.objects.order_by("pk")[1].pk
    tamper("UPDATE connections_tokenfetch SET seal = %s WHERE id = %s", seal, victim)
    assert (4, "removed") in findings()


def test_deleting_or_inserting_a_token_request_is_detected(sealed: Connection) -> None:
    for row in TokenFetch.objects.all():
        with transaction.atomic():
            tamper("DELETE FROM connections_tokenfetch WHERE id = %s", row.pk)
            assert findings() == [(4, "removed")]
            transaction.set_rollback(True)
    row.pk = None
    TokenFetch.objects.bulk_create([row])
    assert findings() == [(4, "inserted")]


SEAL_COLUMNS = {
    "number": 99,
    "events_after": 0,
    "events_upto": UNUSED_ID,
    "events_count": 9,
    "events_hash": "0" * 64,
    "fetches_count": 9,
    "fetches_hash": "0" * 64,
    "covers_from": "2020-01-01 00:00:00",
    "covers_until": "2020-01-01 00:00:00",
    "summary": '{"x.y": 1}',
    "marks": b"x",
    "sealed_at": "2020-01-01 00:00:00",
    "previous_hash": "1" * 64,
    "hash": "1" * 64,
    "root": "1" * 64,
    "key_id": "1" * 16,
    "mac": "1" * 64,
    "restore": "{}",
}


@pytest.mark.parametrize(
    ("model", "columns"),
    [(AuditEvent, {*EVENT_COLUMNS, "id", "actor_id"}), (TokenFetch, {*FETCH_COLUMNS}), (AuditSeal, {*SEAL_COLUMNS})],
)
def test_every_column_is_covered_by_these_tests(model: type[Model], columns: set[str]) -> None:
    assert {field.column for field in model._meta.concrete_fields} == columns


@pytest.mark.parametrize("column", SEAL_COLUMNS)
def test_altering_any_column_of_a_seal_is_detected(sealed: Connection, column: str) -> None:
    tamper(f"UPDATE connections_auditseal SET {column} = %s WHERE number = 2", SEAL_COLUMNS[column])
    assert findings()[0][0] == 2


@pytest.mark.parametrize("seal", [1, 2, 3])
def test_deleting_a_seal_is_detected(sealed: Connection, seal: int) -> None:
    tamper("DELETE FROM connections_auditseal WHERE number = %s", seal)
    assert findings()[0] == (seal, "removed")


def test_a_forged_seal_for_altered_rows_is_detected_by_the_next_seal(sealed: Connection) -> None:
    tamper("UPDATE connections_auditevent SET target_name = 'x' WHERE id = %s", ids(2)[0])
    forged = AuditSeal.objects.get(number=2)
    rows = serialization.rows(serialization.events(), "id > %s AND id <= %s", [forged.events_after, forged.events_upto])
    forged.events_hash = serialization.digest(serialization.lines(serialization.events(), rows))
    forged.marks = serialization.pack_digests(serialization.events(), rows, after=forged.events_after)
    tamper(
        "UPDATE connections_auditseal SET events_hash = %s, marks = %s, hash = %s WHERE number = 2",
        forged.events_hash, forged.marks, seal_format.compute_hash(forged),
    )  # fmt: skip
    assert findings() == [(2, "seal")]


def test_removing_the_newest_seal_is_detected_by_published_seals(sealed: Connection, tmp_path: Any) -> None:
    newest = AuditSeal.objects.get(number=4)
    published = tmp_path / "seals.jsonl"
    published.write_text(
        "".join(f"{seal_format.published_line(seal)}\n" for seal in AuditSeal.objects.order_by("number"))
    )
    tamper("DELETE FROM connections_auditseal WHERE number = 4")
    tamper("DELETE FROM connections_tokenfetch")
    assert findings() == []
    for arguments in ({"expect": [f"4:{newest.hash}"]}, {"published": str(published)}):
        with pytest.raises(SystemExit) as ended:
            call_command("audit_verify", read_only=True, **arguments)
        assert ended.value.code == 1


def test_removing_all_seals_is_detected_by_their_token_requests(sealed: Connection) -> None:
    tamper("DELETE FROM connections_auditseal")
    assert set(findings()) == {(1, "removed")}


def test_removing_the_newest_seal_is_detected_by_an_earlier_verification(sealed: Connection) -> None:
    verification.verify(actor=None, now=lambda: LATER)
    tamper("DELETE FROM connections_auditseal WHERE number = 4")
    tamper("DELETE FROM connections_tokenfetch")
    assert findings() == [(4, "removed")]


def test_an_unreadable_seal_is_detected(sealed: Connection) -> None:
    planted = "infinity" if database.vendor == "postgresql" else "never"
    tamper("UPDATE connections_auditseal SET sealed_at = %s WHERE number = 2", planted)
    run = verification.verify(actor=None, now=lambda: LATER)
    assert run.state == "broken"
    assert "can't be read" in run.findings[0]["what"]


def test_an_unreadable_text_ends_the_check_with_a_finding(sealed: Connection) -> None:
    """SQLite accepts any bytes as text, while PostgreSQL rejects invalid ones itself."""
    planted = "CAST(x'ff00fe' AS TEXT)" if database.vendor == "sqlite" else "'x'"
    tamper(f"UPDATE connections_auditevent SET target_name = {planted} WHERE id = %s", ids(2)[3])
    run = verification.verify(actor=None, now=lambda: LATER)
    assert (run.state, bool(run.findings)) == ("broken", True)


def test_the_models_refuse_changes(sealed: Connection) -> None:
    event, seal = AuditEvent.objects.latest("pk"), AuditSeal.objects.latest("number")
    for refused in (
        event.save, event.delete, seal.save, seal.delete,
        AuditEvent.objects.all().delete, AuditSeal.objects.all().delete,
        lambda: AuditEvent.objects.update(action="x"),
        lambda: AuditEvent.objects.bulk_update([event], ["action"]),
        lambda: AuditSeal.objects.filter(number=1).update(hash="x"),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            refused()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE connections_auditevent SET action = 'x'",
        "UPDATE connections_auditevent SET actor_id = actor_id",
        "UPDATE connections_auditevent SET actor_id = NULL, action = 'x'",
        "DELETE FROM connections_auditevent",
        "UPDATE connections_tokenfetch SET count = 7",
        "UPDATE connections_tokenfetch SET seal = NULL",
        "UPDATE connections_tokenfetch SET connection_id = NULL, count = 7",
        "DELETE FROM connections_tokenfetch",
        "UPDATE connections_auditseal SET hash = 'x'",
        "DELETE FROM connections_auditseal",
    ],
)
def test_the_database_refuses_changes(sealed: Connection, statement: str) -> None:
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), database.cursor() as cursor:
        cursor.execute(statement)
    assert findings() == []


@pytest.mark.only_on("postgres")  # SQLite has no TRUNCATE
@pytest.mark.parametrize("table", audit_triggers.TABLES)
def test_the_database_refuses_to_empty_the_tables(sealed: Connection, table: str) -> None:
    with database.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            cursor.execute(f"TRUNCATE {table} CASCADE")


def test_missing_triggers_are_reported(sealed: Connection) -> None:
    assert guards.unguarded_tables() == []
    with audit_triggers.removed():
        assert guards.unguarded_tables() == sorted(audit_triggers.TABLES)


@pytest.mark.django_db(transaction=True)  # SQLite can change its schema only outside of transactions
def test_missing_triggers_can_be_reinstalled(sealed: Connection, capsys: Any) -> None:
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("DROP TRIGGER portal_audit_guard ON connections_auditevent")
        else:
            cursor.execute("DROP TRIGGER connections_auditevent_no_update")
    assert guards.unguarded_tables() == ["connections_auditevent"]
    call_command("audit_guards")
    assert "Guarded again: connections_auditevent" in capsys.readouterr().out
    assert guards.unguarded_tables() == []
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent._base_manager.update(action="x")


def test_a_verification_is_carried_out_once_and_recorded(sealed: Connection, carol: User) -> None:
    requested = verification.request_verification(actor=carol, now=LATER)
    assert verification.request_verification(actor=carol, now=LATER) == requested
    (run,) = verification.run_due(lambda: LATER)
    assert verification.run_due(lambda: LATER) == []
    assert verification_records.latest(LATER).any == run
    assert (run.state, run.checked, run.upto, run.rows) == ("intact", 4, 4, 29)
    event = AuditEvent.objects.get(action="audit.verified")
    assert (event.actor, event.outcome, event.changes["seal"]) == (carol, "done", 4)
    assert event.changes["hash"] == AuditSeal.objects.get(number=4).hash


def test_a_verification_is_resumed_when_its_worker_died(sealed: Connection, carol: User, monkeypatch: Any) -> None:
    monkeypatch.setattr(verification_checks, "SEALS_PER_STEP", 2)
    requested = verification.request_verification(actor=carol, now=LATER)

    def die(*args: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(verification, "_record", die)
        with pytest.raises(SystemExit):
            verification.run_due(lambda: LATER)
    requested.refresh_from_db()
    assert (requested.state, requested.checked, requested.rows) == ("running", 4, 29)
    assert verification.run_due(lambda: LATER) == []
    read: list[int] = []
    genuine = serialization.events_between

    def watched(after: int | None, upto: int) -> Iterator[serialization.Row]:
        read.append(upto)
        return genuine(after, upto)

    monkeypatch.setattr(serialization, "events_between", watched)
    (run,) = verification.run_due(lambda: LATER + timedelta(minutes=3))
    assert (run.pk, run.state, run.rows) == (requested.pk, "intact", 29)
    assert read == []  # all had been checked before


@pytest.mark.parametrize("page", [1, 3, 10, 20_000])
@pytest.mark.parametrize("step", [1, 3, 20])
def test_every_row_is_counted_once(sealed: Connection, monkeypatch: Any, page: int, step: int) -> None:
    """The totals of a verification are events and token requests over all seals, pages and steps."""
    monkeypatch.setattr(serialization, "PAGE", page)
    monkeypatch.setattr(verification_checks, "SEALS_PER_STEP", step)
    reports = list(verification_checks.check_seals())
    per_seal = [10, 10, 5, 4]
    steps = [sum(per_seal[start : start + step]) for start in range(0, 4, step)]
    assert [report.rows for report in reports] == [*steps, 0]
    assert [report.seal for report in reports][-1] == 4
    run = verification.verify(actor=None, now=lambda: LATER)
    assert (run.rows, run.findings, run.unsealed) == (29, [], 0)
    assert AuditEvent.objects.get(action="audit.verified").changes["rows"] == 29
    run = verification.verify(actor=None, now=lambda: LATER, since=2)
    assert (run.rows, run.findings) == (9, [])


def test_rows_of_altered_seals_are_counted_as_they_are(sealed: Connection) -> None:
    tamper("DELETE FROM connections_auditevent WHERE id = %s", ids(2)[0])
    assert verification.verify_read_only()[0] == 28


def test_a_broken_trail_is_recorded_with_its_first_broken_seal(sealed: Connection) -> None:
    tamper("DELETE FROM connections_auditevent WHERE id = %s", ids(3)[0])
    tamper("DELETE FROM connections_auditevent WHERE id = %s", ids(2)[0])
    run = verification.verify(actor=None, now=lambda: LATER)
    assert run.state == "broken"
    assert [finding["seal"] for finding in run.findings] == [2, 3]
    event = AuditEvent.objects.get(action="audit.verified")
    assert (event.outcome, event.changes["first_broken_seal"]) == ("failed", 2)


def test_the_command_reports_findings_and_exits_with_one(sealed: Connection, capsys: Any) -> None:
    call_command("audit_verify")
    assert "Intact: 29 rows in seals up to 4:" in capsys.readouterr().out
    victim = ids(2)[5]
    tamper("UPDATE connections_auditevent SET action = 'x' WHERE id = %s", victim)
    with pytest.raises(SystemExit) as ended:
        call_command("audit_verify", read_only=True)
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "BROKEN at seal 2" in out
    assert f"Event {victim} was altered" in out
    call_command("audit_verify", since=2, read_only=True)


@pytest.mark.parametrize(
    "options",
    [{"expect": ["4"]}, {"expect": ["x:y"]}, {"since": 77}, {"published": "/no/such/file"}, {"actor": "nobody"}],
)
def test_the_command_refuses_invalid_options(sealed: Connection, options: dict[str, Any]) -> None:
    with pytest.raises(CommandError):
        call_command("audit_verify", **options)


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in a thread with its own database connection, and raise its exception here."""

    def run() -> None:
        try:
            work()
        finally:
            databases.close_all()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        yield
    future.result()


@pytest.mark.django_db(transaction=True)
def test_concurrent_sealers_and_writers_make_one_chain(connection: Connection) -> None:
    def seal() -> None:
        for _ in range(15):
            sealing.seal_due(NOW, batch=3)

    with (
        thread(lambda: record_events(connection, 40)),
        thread(seal),
        thread(seal),
        thread(lambda: record_events(connection, 40)),
    ):
        pass
    while sealing.seal_due(NOW, batch=3):
        pass
    assert sealing.count_unsealed() == 0
    assert sum(AuditSeal.objects.values_list("events_count", flat=True)) == 80
    assert findings() == []


@pytest.mark.only_on("postgres")  # SQLite commits ids in order
@pytest.mark.django_db(transaction=True)
def test_an_id_that_is_committed_late_is_sealed(connection: Connection) -> None:
    began, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            record_events(connection, 1, late=True)
            began.set()
            assert may_end.wait(20)

    record_events(connection, 1)
    with thread(slow):
        assert began.wait(20)
        record_events(connection, 2)
        assert sealing.seal_due(NOW) == 0
        assert sealing.seal_due(NOW) == 0
        may_end.set()
    assert sealing.seal_due(NOW) == 1
    assert AuditSeal.objects.get().events_count == 4
    assert findings() == []


@pytest.mark.only_on("postgres")
@pytest.mark.django_db(transaction=True)
def test_a_trail_with_constant_writers_is_sealed(connection: Connection) -> None:
    """Sealing waits only for the transactions that were open when the newest id was read."""
    steps = [threading.Event() for _ in range(4)]

    def writer(opened: int, until: int) -> Callable[[], None]:
        def write() -> None:
            with transaction.atomic():
                record_events(connection, 1)
                steps[opened].set()
                assert steps[until].wait(20)

        return write

    record_events(connection, 1)
    with thread(writer(0, 2)):
        assert steps[0].wait(20)
        record_events(connection, 1)
        assert sealing.seal_due(NOW) == 0
        with thread(writer(1, 3)):
            assert steps[1].wait(20)
            steps[2].set()
            wait_until_one_writer_is_left()
            assert sealing.seal_due(NOW) == 1
            steps[3].set()
    assert AuditSeal.objects.get().events_count == 3
    assert sealing.seal_due(NOW) == 1
    assert findings() == []


def wait_until_one_writer_is_left() -> None:
    for _ in range(2000):
        if len(sealing._writers()) == 1:
            return
        threading.Event().wait(0.005)
    pytest.fail("the other transaction did not end")
