"""A restored backup is declared: the trail continues above the highest published seal, and everybody can see it."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection as database

from connections import audit
from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, AuditSeal, BulkAction, Connection, Delivery, Incident, User
from connections.models.audit import AuditAction
from connections.services.audit import published, publishing, restores, seal_format, sealing, verification
from connections.services.connections import bulk_actions, bulk_execution
from connections.services.operations import audit_watch, restore
from tests import audit_triggers

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)

pytestmark = pytest.mark.django_db


@pytest.fixture
def file(bob: User, settings: Any, tmp_path: Path) -> Path:
    """Nine published seals, of which a restored backup knows the first five."""
    settings.AUDIT_SEAL_LOG = False
    settings.AUDIT_SEAL_FILE = str(tmp_path / "seals.jsonl")
    make_seals(9, bob)
    lose_after(5)
    return tmp_path / "seals.jsonl"


def make_seals(count: int, person: User, *, now: datetime = NOW) -> None:
    for minute in range(count):
        audit.record(AuditAction.ACCOUNT_CHANGED, person, actor=person)
        assert sealing.seal_due(now + timedelta(minutes=minute)) == 1
    publishing.publish_due(now + timedelta(hours=1))


def lose_after(number: int) -> None:
    """Take the database back to the time of this seal, as a restored backup does."""
    with audit_triggers.removed(), database.cursor() as cursor:
        upto = AuditSeal.objects.get(number=number).events_upto
        cursor.execute("DELETE FROM connections_auditevent WHERE id > %s", [upto])
        cursor.execute("DELETE FROM connections_auditseal WHERE number > %s", [number])
        cursor.execute("UPDATE connections_sealpublication SET upto = %s WHERE upto > %s", [number, number])


def declare(file: Path, actor: User, now: datetime = NOW + timedelta(days=1)) -> restores.Restore:
    return restore.declare(published.read_file(str(file)), actor=actor, reason="Disk failure", now=now)


def findings(file: Path) -> list[tuple[int, str]]:
    known = list(published.read_file(str(file)))
    return [(finding.seal, finding.kind) for finding in verification.verify_read_only(known=known)[1]]


def test_a_declared_restore_continues_above_the_published_seals(file: Path, alice: User, bob: User) -> None:
    assert findings(file) == [(number, "removed") for number in (6, 7, 8, 9)]
    declared = declare(file, alice)
    assert (declared.number, declared.after, declared.published) == (10, 5, 9)
    make_seals(3, bob, now=NOW + timedelta(days=1))
    assert [line.number for line in published.read_file(str(file))] == [*range(1, 10), 10, 11, 12, 13]
    assert findings(file) == []
    event = AuditEvent.objects.get(action="audit.restore_declared")
    assert (event.actor, event.changes["after"], event.changes["published"]) == (alice, 5, 9)
    assert event.changes["reason"] == "Disk failure"


def test_it_stays_visible_for_ever(file: Path, alice: User, bob: User, settings: Any) -> None:
    declare(file, alice)
    settings.AUDIT_RETENTION_DAYS = 10
    from connections.services.operations import retention

    later = NOW + timedelta(days=100)
    sealing.seal_due(NOW + timedelta(days=1))
    assert retention.prune(later) > 0
    assert not AuditEvent.objects.filter(action="audit.restore_declared").exists()
    run = verification.verify(actor=None, now=lambda: later)
    (note,) = run.notes
    assert "Restore declared by" in note
    assert "Disk failure" in note
    assert "seals 6 to 9" in note
    assert run.state == "intact"
    out = io.StringIO()
    call_command("audit_verify", read_only=True, stdout=out)
    assert note in out.getvalue()


def test_it_accepts_exactly_the_seals_that_were_lost(file: Path, alice: User) -> None:
    lost = {seal.number: seal for seal in published.read_file(str(file))}
    declare(file, alice)
    assert findings(file) == []
    for number in (6, 9):
        forged = published.PublishedSeal(number, "f" * 64, ("e" * 64,))
        others = [seal for seal in lost.values() if seal.number != number]
        assert (number, "published") in [
            (finding.seal, finding.kind) for finding in published.compare([*others, forged], where="there")
        ]
    assert [finding.seal for finding in published.compare([published.PublishedSeal(11, "f" * 64)], where="x")] == [11]
    with audit_triggers.removed(), database.cursor() as cursor:
        cursor.execute("DELETE FROM connections_auditseal WHERE number = 5")
    assert (5, "removed") in findings(file)


def test_no_rows_fit_into_the_gap(file: Path, alice: User, bob: User) -> None:
    declare(file, alice)
    from connections.models import TokenFetch

    facts = {"key_ref": 1, "key_name": "k", "owner_name": "o", "connection_ref": 1, "connection_name": "c", "count": 1}
    for number in (6, 9):
        TokenFetch.objects.create(minute=NOW, seal=number, **facts)
    assert findings(file) == [(6, "inserted"), (9, "inserted")]


def test_a_restore_that_was_noticed_late_can_be_declared(file: Path, alice: User, bob: User, settings: Any) -> None:
    """The portal ran without the file for a while, so seals 6 and 7 exist a second time."""
    settings.AUDIT_SEAL_FILE = ""
    make_seals(2, bob, now=NOW + timedelta(days=1))
    settings.AUDIT_SEAL_FILE = str(file)
    assert (6, "published") in findings(file)
    declared = declare(file, alice)
    assert (declared.number, declared.after, declared.follows, declared.published) == (10, 5, 7, 9)
    publishing.publish_due(NOW + timedelta(days=2))
    assert findings(file) == []
    settings.AUDIT_SEAL_FILE = ""
    make_seals(6, bob, now=NOW + timedelta(days=3))
    assert findings(file) == []


def test_a_second_restore_from_the_same_backup_can_be_declared(file: Path, alice: User, bob: User) -> None:
    declare(file, alice)
    make_seals(3, bob, now=NOW + timedelta(days=1))
    lose_after(5)
    declared = declare(file, alice, now=NOW + timedelta(days=2))
    assert (declared.number, declared.after, declared.published) == (14, 5, 13)
    publishing.publish_due(NOW + timedelta(days=3))
    assert findings(file) == []
    with audit_triggers.removed(), database.cursor() as cursor:
        cursor.execute("DELETE FROM connections_auditseal WHERE number = 14")
    assert findings(file) != []


def test_a_bulk_action_that_the_backup_brought_back_does_not_go_on(
    file: Path, alice: User, bob: User, connection: Connection
) -> None:
    bulk_action = bulk_actions.draft(BulkAction.Action.REMOVE, [connection], actor=bob, now=NOW)
    bulk_actions.start(bulk_action, actor=bob, now=NOW)
    declare(file, alice)
    assert bulk_execution.run_due(lambda: NOW + timedelta(days=2)) == 0
    assert Connection.objects.filter(pk=connection.pk).exists()
    bulk_action.refresh_from_db()
    assert (bulk_action.state, bulk_action.stop_reason[:21]) == ("stopped", "A backup was restored")
    event = AuditEvent.objects.get(action="bulk_action.stopped")
    assert (event.actor, event.changes["not_done"]) == (None, 1)


def test_nothing_can_be_declared_without_need_or_twice(file: Path, alice: User) -> None:
    declare(file, alice)
    with pytest.raises(InvalidInput, match="no restore to declare"):
        declare(file, alice)
    publishing.publish_due(NOW + timedelta(days=2))
    with pytest.raises(InvalidInput, match="no restore to declare"):
        declare(file, alice)
    assert AuditSeal.objects.filter(restore__isnull=False).count() == 1


def test_an_altered_trail_cannot_be_declared_a_restore(file: Path, alice: User) -> None:
    """A restore loses the end of the chain. Whatever else is missing was removed."""
    with audit_triggers.removed(), database.cursor() as cursor:
        cursor.execute("DELETE FROM connections_auditseal WHERE number = 3")
    with pytest.raises(InvalidInput, match="Seal 3 was published, but differs here or is missing"):
        declare(file, alice)


def test_only_number_and_hash_of_the_highest_seal_may_be_known(file: Path, alice: User) -> None:
    *_, highest = published.read_file(str(file))
    known = [published.PublishedSeal(9, highest.hash)]
    declared = restore.declare(known, actor=alice, reason="Disk failure", now=NOW)
    assert (declared.number, declared.after) == (10, 5)
    assert findings(file) == []


@pytest.mark.parametrize("name", ["bob", "carol"])
def test_only_it_admins_declare_and_never_without_a_reason(
    file: Path, alice: User, bob: User, carol: User, name: str
) -> None:
    with pytest.raises(NotAllowed):
        declare(file, {"bob": bob, "carol": carol}[name])
    with pytest.raises(InvalidInput, match="Say why"):
        restore.declare(published.read_file(str(file)), actor=alice, reason=" ", now=NOW)


def test_it_admins_and_auditors_are_told_and_the_incident_is_over(
    file: Path, alice: User, carol: User, settings: Any, monkeypatch: Any
) -> None:
    from connections.models import AlertChoice

    AlertChoice.objects.create(user=carol, messages=False)
    posted: list[str] = []
    monkeypatch.setattr(publishing, "send_alarm", lambda event, data, **options: posted.append(event))
    audit_watch.run(lambda: NOW + timedelta(hours=2))
    open_incidents = Incident.objects.filter(key=audit_watch.BROKEN, closed_at=None)
    assert open_incidents.count() == 1
    declare(file, alice)
    assert open_incidents.count() == 0
    recipients = Delivery.objects.filter(event="message").values_list("email", flat=True)
    assert set(recipients) == {alice.email.lower(), carol.email.lower()}
    assert posted == ["broken", "restored"]
    (run,) = audit_watch.run(lambda: NOW + timedelta(days=1, hours=1))
    assert (run.state, run.since) == ("intact", 0)


def test_a_seal_that_merely_claims_a_restore_opens_no_gap(file: Path, bob: User) -> None:
    previous = AuditSeal.objects.get(number=5)
    claim = {"after": 5, "follows": 5, "published": 9, "published_hash": "f" * 64, "by": "x", "reason": "y"}
    forged = AuditSeal.objects.get(number=5)
    forged.number, forged.restore, forged.previous_hash = 10, claim, previous.hash
    forged.events_after, forged.events_count = forged.events_upto, 0
    forged.hash, forged.mac = seal_format.compute_hash(forged), "0" * 64
    AuditSeal.objects.bulk_create([forged])
    assert restores.declared() == []
    assert {6, 10} <= {number for number, _ in findings(file)}


def test_the_command_says_what_it_did_or_why_not(file: Path, alice: User, settings: Any) -> None:
    out = io.StringIO()
    options: dict[str, Any] = {"reason": "Disk failure", "published": str(file), "stdout": out}
    with pytest.raises(CommandError, match="No active person"):
        call_command("declare_restore", actor="nobody", **options)
    call_command("declare_restore", actor="alice", **options)
    assert "The trail continues with seal 10" in out.getvalue()
    with pytest.raises(CommandError, match="no restore to declare"):
        call_command("declare_restore", actor="alice", **options)
    with pytest.raises(CommandError, match="Name the published seals"):
        call_command("declare_restore", actor="alice", **options | {"published": ""})


def test_nothing_is_lost_only_if_every_published_seal_is_here(file: Path, alice: User, bob: User) -> None:
    known = list(published.read_file(str(file)))
    with pytest.raises(InvalidInput, match="Seal 6 was published and is missing here"):
        restore.declare_without_loss(known, actor=alice, reason="Moved", now=NOW)
    with pytest.raises(NotAllowed):
        restore.declare_without_loss(known[:5], actor=bob, reason="Moved", now=NOW)
    assert not AuditEvent.objects.filter(action="audit.restore_declared").exists()
    restore.declare_without_loss(known[:5], actor=alice, reason="Moved", now=NOW)
    assert AuditEvent.objects.get(action="audit.restore_declared").changes == {"reason": "Moved"}


def test_people_see_it_on_the_page_of_seals(file: Path, alice: User, carol: User, signed_in: Any) -> None:
    declare(file, alice)
    carol.refresh_from_db()  # everyone was signed out
    assert "Restore declared by" in signed_in(carol).get("/audit/seals/").content.decode()
