"""Somebody who can only write to the database removes young rows from the audit trail, in the guise of retention.

No trigger is touched: the switch that lets retention remove rows is part of the database, too.
"""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection as database
from django.db import transaction

from connections import audit
from connections.models import AccessPeriod, AuditEvent, AuditSeal, AuditVerification, Connection, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import (
    guards,
    publishing,
    seal_format,
    sealing,
    verification,
    verification_schedule,
)
from connections.services.operations import retention
from connections.services.sharing import history_check, shares
from tests import audit_triggers, factories

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=400)


@pytest.fixture
def trail(bob: User, settings: Any, tmp_path: Path) -> Connection:
    """Ten seals, one for each of the last ten days, all published. Retention keeps 30 days."""
    settings.AUDIT_RETENTION_DAYS = 30
    settings.AUDIT_SEAL_FILE = str(tmp_path / "seals.jsonl")
    settings.AUDIT_SEAL_LOG = False
    connection = factories.make_connection(owner=bob)
    key, _ = factories.make_key(bob)
    for age in range(10, 0, -1):
        day = NOW - timedelta(days=age)
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, at=day)
        api_keys.record_token_request(key, connection, address=None, now=day)
        seal(day + timedelta(minutes=10))
    assert verdict() == ""
    return connection


def seal(now: datetime) -> None:
    """What the portal's own worker does every few seconds, whoever wrote the rows."""
    sealing.seal_due(now)
    publishing.publish_due(now)


def sql(statement: str, *parameters: Any) -> None:
    with database.cursor() as cursor:
        cursor.execute(statement, parameters)


def insert_event(action: str, at: datetime, changes: dict[str, Any] | None = None) -> None:
    sql(
        "INSERT INTO connections_auditevent (at, action, outcome, actor_name, target_type, target_id, target_name, "
        "changes, request_id) VALUES (%s, %s, 'done', 'Portal', 'AuditTrail', '', 'Audit trail', %s, '')",
        str(at.replace(tzinfo=None)) if database.vendor == "sqlite" else at, action, json.dumps(changes or {}),
    )  # fmt: skip


def open_retention_switch() -> None:
    if database.vendor == "sqlite":
        sql("UPDATE connections_auditsealing SET retention_open = 1")
    else:
        sql("SELECT set_config('portal.audit_retention', 'on', false)")


def close_retention_switch() -> None:
    if database.vendor == "sqlite":
        sql("UPDATE connections_auditsealing SET retention_open = 0")
    else:
        sql("SELECT set_config('portal.audit_retention', 'off', false)")


def delete_rows(upto: int) -> None:
    """Delete all rows of the seals up to this one, with all triggers in place."""
    last = AuditSeal.objects.get(number=upto)
    open_retention_switch()
    sql("DELETE FROM connections_auditevent WHERE id <= %s", last.events_upto)
    sql("DELETE FROM connections_tokenfetch WHERE seal <= %s", upto)
    close_retention_switch()


def verdict(published: str = "") -> str:
    """Return what ``audit_verify`` reports; "" if the trail is intact."""
    out = io.StringIO()
    try:
        call_command("audit_verify", read_only=True, published=published, stdout=out)
    except SystemExit:
        return out.getvalue()
    assert "Intact" in out.getvalue()
    return ""


@pytest.mark.parametrize("is_published", [False, True])
def test_young_rows_cannot_be_removed_in_the_guise_of_retention(
    trail: Connection, settings: Any, is_published: bool
) -> None:
    insert_event("connection.checked", LONG_AGO)
    seal(NOW)
    newest = AuditSeal.objects.latest("number")
    delete_rows(upto=newest.number)
    insert_event("audit.pruned", NOW, {"upto": newest.number, "days": 30})
    seal(NOW)
    assert "BROKEN" in verdict(settings.AUDIT_SEAL_FILE if is_published else "")


def test_a_pruning_event_that_names_a_short_retention_is_not_believed(trail: Connection) -> None:
    delete_rows(upto=8)
    insert_event("audit.pruned", NOW, {"upto": 8, "days": 1})
    seal(NOW)
    report = verdict()
    assert "the portal did not record it" in report
    assert "seal 1 " in report


def test_many_small_removals_are_not_believed_either(trail: Connection) -> None:
    for number in range(1, 9):
        delete_rows(upto=number)
        insert_event("audit.pruned", NOW + timedelta(minutes=number), {"upto": number, "days": 1})
        seal(NOW + timedelta(minutes=number))
    assert verdict().count("the portal did not record it") == 8


def test_the_record_of_a_true_removal_cannot_be_used_for_more(trail: Connection, settings: Any) -> None:
    later = NOW + timedelta(days=25)
    assert retention.prune(later) > 0
    seal(later)
    assert verdict() == ""
    genuine = AuditEvent.objects.get(action="audit.pruned")
    upto = genuine.changes["upto"]
    with transaction.atomic():
        delete_rows(upto=upto + 2)
        insert_event("audit.pruned", genuine.at, genuine.changes | {"upto": upto + 2})
        seal(later)
        assert "BROKEN" in verdict()
        transaction.set_rollback(True)
    with transaction.atomic():  # the same with a record as it was, to have it look newer
        delete_rows(upto=upto + 2)
        insert_event("audit.pruned", genuine.at, genuine.changes)
        seal(later)
        assert f"BROKEN at seal {upto + 1}" in verdict()
        transaction.set_rollback(True)


def test_a_planted_record_of_a_removal_hides_nothing_from_the_check_of_the_access_history(trail: Connection) -> None:
    assert history_check.history_start() == history_check.LONG_AGO
    insert_event("audit.pruned", NOW, {"upto": 10, "days": 1, "until": NOW.isoformat()})
    seal(NOW)
    assert history_check.history_start() == history_check.LONG_AGO


def test_an_event_dated_ahead_does_not_make_retention_forget_the_access_history(
    trail: Connection, alice: User, dave: User
) -> None:
    insert_event("connection.checked", NOW + timedelta(days=3650))
    seal(NOW)
    share = shares.share(trail, person=dave, level="use", until=None, actor=trail.owner, now=NOW + timedelta(days=50))
    shares.end_share(share, actor=alice, now=NOW + timedelta(days=51))
    assert retention.prune(NOW + timedelta(days=60)) == 21
    assert AccessPeriod.objects.filter(person_id=dave.pk).count() == 1


def test_planted_seals_do_not_help(trail: Connection) -> None:
    """Nothing keeps anybody from inserting a seal; only the signature tells it from a genuine one."""
    newest = AuditSeal.objects.latest("number")
    insert_event("connection.checked", LONG_AGO)
    sealing.seal_due(NOW)  # computes everything but the signature for the forger
    forged = AuditSeal.objects.latest("number")
    with audit_triggers.removed():
        sql("DELETE FROM connections_auditseal WHERE number > %s", newest.number)
    for key_id, mac in (("", ""), (forged.key_id, "0" * 64), ("f" * 16, "0" * 64)):
        with transaction.atomic():
            forged.key_id, forged.mac = key_id, mac
            forged.hash = seal_format.compute_hash(forged)
            AuditSeal.objects.bulk_create([forged])
            audit.record(AuditAction.CONNECTION_CHECKED, trail, actor=None)
            sealing.seal_due(NOW)  # the portal builds on it
            assert f"BROKEN at seal {forged.number}" in verdict(), key_id
            transaction.set_rollback(True)


def test_back_dated_events_and_a_clock_that_was_set_back_make_nothing_old_enough(trail: Connection) -> None:
    insert_event("connection.checked", LONG_AGO)
    seal(NOW)
    for _ in range(3):
        insert_event("connection.checked", LONG_AGO)
        seal(LONG_AGO)  # a worker whose clock is wrong
    assert retention.prune(NOW + timedelta(days=15)) == 0
    assert retention.prune(NOW + timedelta(days=29)) == 9 * 2
    seal(NOW + timedelta(days=29))
    assert verdict() == ""


def test_a_clock_that_was_ahead_does_not_excuse_a_removal(trail: Connection) -> None:
    """Whoever can set the worker's clock gets a signed record, but later seals betray it."""
    ahead = NOW + timedelta(days=365)
    assert retention.prune(ahead) == 20
    seal(ahead)
    audit.record(AuditAction.CONNECTION_CHECKED, trail, actor=None, at=NOW)
    seal(NOW)
    assert "too young" in verdict()


def test_removing_the_newest_seals_is_found_by_the_published_ones_and_stops_sealing(trail: Connection) -> None:
    with audit_triggers.removed():
        sql("DELETE FROM connections_auditevent WHERE id > %s", AuditSeal.objects.get(number=6).events_upto)
        sql("DELETE FROM connections_tokenfetch WHERE seal > 6")
        sql("DELETE FROM connections_auditseal WHERE number > 6")
        sql("UPDATE connections_sealpublication SET upto = 6")
    assert verdict() == ""  # a sound, shorter chain
    audit.record(AuditAction.CONNECTION_CHECKED, trail, actor=None)
    assert sealing.seal_due(NOW) == 0
    assert verification_schedule.queue_due(NOW) is not None
    (run,) = verification.run_due(lambda: NOW)
    assert run.state == "broken"
    assert {finding["seal"] for finding in run.findings} == {7, 8, 9, 10}


def test_a_chain_made_anew_without_the_key_is_found(trail: Connection) -> None:
    """Versions before 0.3 signed nothing, so a forger may pretend that all seals are that old."""
    verification.verify(actor=None, now=lambda: NOW)
    with audit_triggers.removed():
        previous = seal_format.GENESIS_HASH
        for row in AuditSeal.objects.order_by("number"):
            row.key_id = row.root = row.mac = ""
            row.previous_hash = previous
            previous = row.hash = seal_format.compute_hash(row)
            sql("DELETE FROM connections_auditseal WHERE number = %s", row.number)
            AuditSeal.objects.bulk_create([row])
    report = verdict()
    assert "Seal 10 differs from the one in an earlier verification" in report
    sql("DELETE FROM connections_auditverification")
    with audit_triggers.removed():
        sql("DELETE FROM connections_auditevent WHERE action = 'audit.verified'")
    assert verification_schedule.queue_due(NOW) is not None
    (run,) = verification.run_due(lambda: NOW)  # compares with AUDIT_SEAL_FILE
    assert run.state == "broken"
    assert run.findings[0]["kind"] == "published"


def plant_verification(**columns: Any) -> AuditVerification:
    values = {"state": "intact", "asked_by_name": "Portal", "asked_at": NOW, "upto": 10, "checked": 10, **columns}
    return AuditVerification.objects.create(**values)


def test_verifications_that_were_made_up_do_not_keep_the_portal_from_verifying(trail: Connection) -> None:
    for finished_at in (NOW, NOW + timedelta(days=3650)):
        plant_verification(finished_at=finished_at, mac="0" * 64)
    run = verification_schedule.queue_due(NOW)
    assert run is not None
    assert run.since == 0


@pytest.mark.parametrize("claimed_until", [None, NOW + timedelta(days=3650)])
def test_progress_that_was_made_up_is_not_continued(trail: Connection, claimed_until: datetime | None) -> None:
    with audit_triggers.removed():
        sql("DELETE FROM connections_auditevent WHERE id <= %s", AuditSeal.objects.get(number=2).events_upto)
    plant_verification(state="running", since=10, claimed_until=claimed_until)
    (run,) = verification.run_due(lambda: NOW)
    assert (run.state, run.since, run.findings[0]["seal"]) == ("broken", 0, 1)


def test_a_genuine_verification_cannot_be_altered_into_another(trail: Connection) -> None:
    verification.verify(actor=None, now=lambda: NOW - timedelta(days=8))
    AuditVerification.objects.update(finished_at=NOW)
    run = verification_schedule.queue_due(NOW)
    assert run is not None
    assert run.since == 0


def test_the_switch_for_retention_that_was_left_on_is_reported(trail: Connection) -> None:
    open_retention_switch()
    try:
        run = verification.verify(actor=None, now=lambda: NOW)
    finally:
        close_retention_switch()
    assert run.state == "broken"
    assert {finding["kind"] for finding in run.findings} == {"unguarded"}


@pytest.mark.django_db(transaction=True)  # SQLite can change its schema only outside of transactions
def test_triggers_that_let_everything_through_are_reported(db: None) -> None:
    assert guards.unguarded_tables() == []
    if database.vendor == "postgresql":
        sql(
            "CREATE OR REPLACE FUNCTION portal_audit_guard() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN coalesce(NEW, OLD); END $$"
        )
        assert guards.unguarded_tables() == sorted(guards.TABLES)
    else:
        sql("DROP TRIGGER connections_auditevent_no_delete")
        sql(
            "CREATE TRIGGER connections_auditevent_no_delete BEFORE DELETE ON connections_auditevent WHEN 0 "
            "BEGIN SELECT RAISE(ABORT, 'x'); END"
        )
        assert guards.unguarded_tables() == ["connections_auditevent"]
    call_command("audit_guards", stdout=io.StringIO())
    assert guards.unguarded_tables() == []
