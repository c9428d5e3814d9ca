"""Old rows are removed, seals are kept, and the chain still verifies."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from connections import audit
from connections.models import AccessPeriod, AlertChannel, AuditEvent, AuditSeal, Connection, Delivery, TokenFetch, User
from connections.models.audit import AuditAction
from connections.services.api_keys import api_keys
from connections.services.audit import sealing, verification
from connections.services.operations import retention
from connections.services.people import accounts
from connections.services.sharing import history_check, shares
from tests import factories
from tests.services.audit.test_sealing import ids, tamper

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def trail(bob: User) -> Connection:
    """For each of the last 40 days, record three events and a token request, and seal them."""
    connection = factories.make_connection(owner=bob)
    key, _ = factories.make_key(bob)
    for age in range(40, 0, -1):
        day = NOW - timedelta(days=age)
        for _ in range(3):
            audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, at=day)
        api_keys.record_token_request(key, connection, address=None, now=day)
        sealing.seal_due(day + timedelta(minutes=10))
    return connection


def days(settings: Any, count: int) -> None:
    settings.AUDIT_RETENTION_DAYS = count


def test_by_default_everything_is_kept(trail: Connection) -> None:
    assert retention.prune(NOW) == 0
    assert AuditEvent.objects.count() == 120


def test_old_rows_go_and_the_chain_still_verifies(trail: Connection, settings: Any) -> None:
    days(settings, 10)
    assert retention.prune(NOW) == 30 * 4
    assert retention.prune(NOW) == 0
    assert TokenFetch.objects.count() == 10
    assert AuditSeal.objects.count() == 40
    assert AuditSeal.objects.get(number=1).summary == {"connection.checked": 3, "connection.token_fetched": 1}
    event = AuditEvent.objects.get(action="audit.pruned")
    assert (event.changes["upto"], event.changes["events"], event.changes["token_fetches"]) == (30, 90, 30)
    sealing.seal_due(NOW)
    assert verification.verify_read_only() == (10 * 4 + 1, [])
    assert retention.prune(NOW + timedelta(days=5)) > 0
    assert verification.verify_read_only()[1] == []


def test_many_seals_are_removed_in_several_steps(trail: Connection, settings: Any, monkeypatch: Any) -> None:
    days(settings, 10)
    monkeypatch.setattr(retention, "TOGETHER", 7)
    assert retention.prune(NOW) == 30 * 4
    assert AuditEvent.objects.filter(action="audit.pruned").count() == 5
    sealing.seal_due(NOW)
    assert verification.verify_read_only()[1] == []


def test_tampered_rows_are_kept_as_evidence(trail: Connection, settings: Any) -> None:
    days(settings, 10)
    tamper("UPDATE connections_auditevent SET action = 'x' WHERE id = %s", ids(3)[0])
    assert retention.prune(NOW) == 0
    assert AuditEvent.objects.filter(action="x").exists()


def test_rows_removed_by_anybody_else_are_reported(trail: Connection, settings: Any) -> None:
    days(settings, 10)
    retention.prune(NOW)
    tamper("DELETE FROM connections_auditevent WHERE id = %s", ids(35)[0])
    assert [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]] == [(35, "removed")]


@pytest.mark.parametrize("number", [1, 7, 30])
def test_a_seal_without_rows_that_is_missing_or_altered_is_named(trail: Connection, settings: Any, number: int) -> None:
    days(settings, 10)
    retention.prune(NOW)
    sealing.seal_due(NOW)
    with transaction.atomic():
        tamper("UPDATE connections_auditseal SET summary = '{}' WHERE number = %s", number)
        assert [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]] == [(number, "seal")]
        transaction.set_rollback(True)
    tamper("DELETE FROM connections_auditseal WHERE number = %s", number)
    assert [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]] == [(number, "removed")]


def test_a_forged_claim_that_retention_removed_new_rows_is_rejected(trail: Connection) -> None:
    tamper("DELETE FROM connections_auditevent WHERE id <= %s", ids(35)[-1])
    tamper("DELETE FROM connections_tokenfetch WHERE seal <= 35")
    audit.record(AuditAction.AUDIT_PRUNED, audit.TRAIL, actor=None, changes={"upto": 35, "days": 10}, at=NOW)
    assert (35, "removed") in [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]]


@pytest.mark.parametrize(("kept", "ahead"), [(-36500, 0), (0, 0), (10, 36500)], ids=["negative", "none", "future"])
def test_no_claim_makes_everything_old_enough_to_be_removed(trail: Connection, kept: int, ahead: int) -> None:
    tamper("DELETE FROM connections_auditevent WHERE id <= %s", ids(38)[-1])
    tamper("DELETE FROM connections_tokenfetch WHERE seal <= 38")
    facts = {"upto": 38, "days": kept}
    audit.record(AuditAction.AUDIT_PRUNED, audit.TRAIL, actor=None, changes=facts, at=NOW + timedelta(days=ahead))
    sealing.seal_due(NOW)
    assert (38, "removed") in [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]]


def test_rows_inserted_into_a_removed_range_are_found(trail: Connection, settings: Any) -> None:
    days(settings, 10)
    retention.prune(NOW)
    AuditEvent.objects.bulk_create([AuditEvent(pk=ids(31)[0] - 1, action="x.y", target_type="T", target_name="t")])
    assert [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]] == [(30, "inserted")]


def test_the_guards_are_closed_again_afterwards(trail: Connection, settings: Any) -> None:
    days(settings, 10)
    retention.prune(NOW)
    from django.db import DatabaseError, connection, transaction

    for table in ("connections_auditevent", "connections_tokenfetch"):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")


def test_finished_alerts_are_removed_and_others_stay(settings: Any) -> None:
    days(settings, 30)
    channel = AlertChannel.objects.create(name="Tickets", kind="webhook", url="https://192.0.2.1/x", host="192.0.2.1")
    old, young = NOW - timedelta(days=31), NOW - timedelta(days=29)
    rows = {
        "delivered": {"delivered_at": old},
        "given up": {"given_up_at": old},
        "young": {"delivered_at": young},
        "waiting": {"next_attempt_at": NOW},
    }
    for key, values in rows.items():
        Delivery.objects.create(key=key, event="test", channel=channel, created_at=old, **values)
    retention.prune(NOW)
    assert set(Delivery.objects.values_list("key", flat=True)) == {"young", "waiting"}


def test_the_access_history_goes_back_no_further_than_the_trail(
    trail: Connection, alice: User, dave: User, settings: Any
) -> None:
    """Periods that are open or ended recently are kept, however long ago they began."""
    days(settings, 10)
    person: dict[str, Any] = {"person": dave, "level": "use", "until": None, "actor": trail.owner}
    for begins, ends in ((39, 38), (37, 5), (4, 3)):
        share = shares.share(trail, **person, now=NOW - timedelta(days=begins))
        shares.end_share(share, actor=alice, now=NOW - timedelta(days=ends))
    accounts.disable_person(dave, actor=alice, now=NOW - timedelta(days=30))
    accounts.enable_person(dave, actor=alice, now=NOW - timedelta(days=29))
    accounts.disable_person(dave, actor=alice, now=NOW - timedelta(days=28))
    assert retention.prune(NOW) > 0
    until = datetime.fromisoformat(AuditEvent.objects.get(action="audit.pruned").changes["until"])
    kept = AccessPeriod.objects.order_by("started_at").values_list("kind", "started_at")
    assert list(kept) == [
        ("person", NOW - timedelta(days=37)),
        ("disabled", NOW - timedelta(days=28)),
        ("person", NOW - timedelta(days=4)),
    ]
    assert history_check.history_start() >= until
    assert history_check.differences() == []
    AccessPeriod.objects.filter(started_at__gt=until).delete()
    assert len(history_check.differences()) == 1
