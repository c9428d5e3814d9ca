"""Signed seals: what the keys guarantee, how they are replaced, and how seals of version 0.2 are carried over."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command

from connections import audit, checks
from connections.models import AuditEvent, AuditSeal, Connection, User
from connections.models.audit import AuditAction
from connections.services.audit import pruning, seal_format, seal_keys, sealing, verification
from tests import audit_triggers, factories
from tests.services.audit.test_sealing import tamper

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
FIRST, SECOND, THIRD = "first-" * 8, "second-" * 8, "third-" * 8

pytestmark = pytest.mark.django_db


@pytest.fixture
def connection(bob: User, settings: Any) -> Connection:
    settings.AUDIT_SEAL_KEYS = [FIRST]
    return factories.make_connection(owner=bob)


def seal_one(connection: Connection, now: datetime) -> AuditSeal:
    audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=connection.owner, at=now)
    assert sealing.seal_due(now) == 1
    return AuditSeal.objects.latest("number")


def findings() -> list[tuple[int, str]]:
    return [(finding.seal, finding.kind) for finding in verification.verify_read_only()[1]]


def make_unsigned(*numbers: int) -> None:
    """Turn these seals into those that version 0.2 made; later ones continue them."""
    previous = None
    with audit_triggers.removed():
        for seal in AuditSeal.objects.order_by("number"):
            if seal.number in numbers:
                seal.key_id = seal.mac = seal.root = ""
            if previous is not None:
                seal.previous_hash = previous
            if seal.number in numbers:
                seal.hash = seal_format.compute_hash(seal)
            else:
                seal_format.sign(seal)
            previous = seal.hash
            AuditSeal._base_manager.filter(number=seal.number)._raw_delete("default")
            AuditSeal.objects.bulk_create([seal])


def test_a_seal_is_signed_with_the_first_key(connection: Connection, settings: Any) -> None:
    settings.AUDIT_SEAL_KEYS = [FIRST, SECOND]
    seal = seal_one(connection, NOW)
    assert seal.key_id == seal_keys.configured()[0].id
    assert seal_format.is_signed(seal)
    settings.AUDIT_SEAL_KEYS = [SECOND, FIRST]
    assert seal_format.is_signed(seal)
    settings.AUDIT_SEAL_KEYS = [THIRD]
    assert not seal_format.is_signed(seal)


def test_no_key_can_be_seen(connection: Connection, settings: Any) -> None:
    keys = seal_keys.configured()
    assert FIRST not in repr(keys)
    assert settings.SECRET_KEY not in repr(keys)
    assert keys[0].secret.hex() not in repr(keys)


def test_a_seal_made_without_the_key_is_found(connection: Connection) -> None:
    seal_one(connection, NOW)
    seal = AuditSeal.objects.get(number=1)
    tamper("UPDATE connections_auditevent SET target_name = 'x' WHERE id = %s", AuditEvent.objects.get().pk)
    from connections.services.audit import serialization

    rows = serialization.rows(serialization.events(), "id > 0", [])
    seal.events_hash = serialization.digest(serialization.lines(serialization.events(), rows))
    columns = "events_hash = %s, hash = %s"
    tamper(f"UPDATE connections_auditseal SET {columns}", seal.events_hash, seal_format.compute_hash(seal))
    assert findings() == [(1, "seal")]


def test_a_replaced_key_verifies_but_signs_nothing_any_more(connection: Connection, settings: Any) -> None:
    seal_one(connection, NOW)
    settings.AUDIT_SEAL_KEYS = [SECOND, FIRST]
    seal_one(connection, NOW + timedelta(days=1))
    assert findings() == []
    settings.AUDIT_SEAL_KEYS = [FIRST, SECOND]  # a worker with the old settings
    seal_one(connection, NOW + timedelta(days=1, minutes=10))
    settings.AUDIT_SEAL_KEYS = [SECOND, FIRST]
    assert findings() == []
    settings.AUDIT_SEAL_KEYS = [FIRST]  # a thief with the old key
    seal_one(connection, NOW + timedelta(days=2))
    settings.AUDIT_SEAL_KEYS = [SECOND, FIRST]
    assert findings() == [(4, "seal")]


def test_a_key_that_is_missing_is_named_once(connection: Connection, settings: Any) -> None:
    for minute in range(3):
        seal_one(connection, NOW + timedelta(minutes=minute))
    key_id = seal_keys.configured()[0].id
    settings.AUDIT_SEAL_KEYS = [SECOND]
    (finding,) = verification.verify_read_only()[1]
    assert (finding.seal, finding.kind) == (1, "seal")
    assert key_id in finding.what


def test_a_portal_without_keys_signs_with_its_secret_key_and_can_set_keys_later(
    connection: Connection, settings: Any
) -> None:
    settings.AUDIT_SEAL_KEYS = []
    seal_one(connection, NOW)
    settings.AUDIT_SEAL_KEYS = [FIRST]
    seal_one(connection, NOW + timedelta(days=1))
    assert findings() == []
    settings.AUDIT_SEAL_KEYS, settings.SECRET_KEY = [FIRST, settings.SECRET_KEY], "another"
    assert findings() == []


def test_a_trail_of_version_0_2_is_continued_by_a_signed_seal_at_once(connection: Connection) -> None:
    for minute in range(3):
        seal_one(connection, NOW + timedelta(minutes=minute))
    make_unsigned(1, 2, 3)
    assert findings() == []
    assert sealing.seal_due(NOW + timedelta(hours=1)) == 1
    marker = AuditSeal.objects.latest("number")
    assert (marker.number, marker.events_count, marker.fetches_count) == (4, 0, 0)
    assert marker.previous_hash == AuditSeal.objects.get(number=3).hash
    assert sealing.seal_due(NOW + timedelta(hours=1)) == 0
    assert findings() == []


def test_an_unsigned_seal_may_not_follow_a_signed_one(connection: Connection) -> None:
    for minute in range(4):
        seal_one(connection, NOW + timedelta(minutes=minute))
    make_unsigned(1, 3)
    assert findings() == [(3, "seal")]
    (run_since,) = [finding.seal for finding in verification.verify_read_only(since=2)[1]]
    assert run_since == 3


def record_removal(upto: int, days: int, at: datetime) -> None:
    """Record a removal as version 0.2 did."""
    changes = {"upto": upto, "days": days}
    audit.record(AuditAction.AUDIT_PRUNED, audit.TRAIL, actor=None, changes=changes, at=at)
    sealing.seal_due(at)


@pytest.mark.parametrize(("configured", "is_accepted"), [(0, True), (10, True), (15, False)])
def test_removals_of_version_0_2_are_accepted_for_the_configured_days(
    connection: Connection, settings: Any, configured: int, is_accepted: bool
) -> None:
    settings.AUDIT_RETENTION_DAYS = configured
    seal_one(connection, NOW - timedelta(days=12))
    seal_one(connection, NOW - timedelta(days=1))
    tamper("DELETE FROM connections_auditevent WHERE id <= %s", AuditSeal.objects.get(number=1).events_upto)
    record_removal(1, 10, NOW)
    make_unsigned(1, 2, 3)
    assert sealing.seal_due(NOW + timedelta(minutes=1)) == 1
    assert pruning.last_pruned_seal() == 1
    assert (findings() == []) == is_accepted
    record_removal(2, 10, NOW + timedelta(days=30))
    assert (5, "inserted") in findings()


def test_settings_that_endanger_the_trail_are_named(settings: Any) -> None:
    settings.AUDIT_SEAL_KEYS, settings.AUDIT_SEAL_FILE, settings.AUDIT_SEAL_WEBHOOK = ["short"], "", ""
    assert [problem.id for problem in checks.audit_seal_keys()] == ["connections.E007"]
    settings.AUDIT_SEAL_KEYS = []
    assert checks.audit_seal_keys() == []
    assert [problem.id for problem in checks.audit_protection()] == ["connections.W005", "connections.W006"]
    settings.AUDIT_SEAL_KEYS, settings.AUDIT_SEAL_FILE = [FIRST], "/mnt/seals.jsonl"
    assert checks.audit_protection() == []
    err = io.StringIO()
    settings.AUDIT_SEAL_KEYS = []
    call_command("check", deploy=True, stderr=err, stdout=io.StringIO())
    assert "connections.W005" in err.getvalue()
