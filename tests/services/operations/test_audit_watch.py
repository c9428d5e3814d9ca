"""The audit trail verifies itself, and a break is told to everybody who can act, also outside the database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from django.db import connection as database
from django.utils import timezone

from connections import audit
from connections.models import AlertChoice, AuditEvent, AuditSeal, AuditVerification, Delivery, Incident, User
from connections.models.audit import AuditAction
from connections.outbound import safe_http
from connections.services.audit import sealing, verification, verification_schedule
from connections.services.operations import audit_watch
from tests import audit_triggers
from tests.services.audit.test_sealing import tamper

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

pytestmark = pytest.mark.django_db


def watch(now: datetime) -> AuditVerification | None:
    """Seal and watch, as the workers do; returns the verification that was carried out, if any."""
    sealing.seal_due(now)
    runs = audit_watch.run(lambda: now)
    assert len(runs) <= 1
    return runs[0] if runs else None


def seal_one(person: User, now: datetime) -> None:
    audit.record(AuditAction.ACCOUNT_CHANGED, person, actor=person, at=now)
    sealing.seal_due(now)


@pytest.fixture
def trail(bob: User) -> User:
    for minute in range(3):
        seal_one(bob, NOW - timedelta(minutes=10 - minute))
    return bob


def incident(key: str = audit_watch.BROKEN) -> Incident | None:
    return Incident.objects.filter(key=key, closed_at=None).first()


@pytest.mark.slow
def test_new_seals_are_verified_every_hour_and_all_every_week(trail: User) -> None:
    first = watch(NOW)
    assert first is not None
    assert (first.state, first.since, first.upto) == ("intact", 0, 3)
    seal_one(trail, NOW + timedelta(minutes=5))
    assert watch(NOW + timedelta(minutes=59)) is None
    second = watch(NOW + HOUR)
    assert second is not None
    assert (second.state, second.since, second.rows) == ("intact", 3, 2)
    hours = [watch(NOW + hour * HOUR) for hour in range(2, 7 * 24 + 1)]
    assert [run.since == 0 for run in hours if run is not None] == [False] * (7 * 24 - 2) + [True]
    assert Incident.objects.count() == 0


@pytest.mark.slow
def test_an_hourly_verification_that_finds_nothing_adds_nothing_to_the_trail(trail: User) -> None:
    watch(NOW)
    seal_one(trail, NOW + timedelta(minutes=5))
    for hour in range(1, 40 * 24):
        if hour > 30 * 24 or hour < 3:
            watch(NOW + hour * HOUR)
    assert AuditEvent.objects.filter(action="audit.verified").count() <= 3
    oldest = AuditVerification.objects.filter(since__gt=0).order_by("finished_at").first()
    assert oldest is not None
    assert oldest.finished_at is not None
    assert oldest.finished_at > NOW + 5 * DAY


def test_a_break_is_told_to_it_admins_and_auditors_the_log_and_the_webhook(
    trail: User, alice: User, carol: User, dave: User, settings: Any, monkeypatch: Any
) -> None:
    settings.AUDIT_SEAL_WEBHOOK = "https://archive.example/seals"
    settings.ALERT_COPY_TO = ["it@example.org"]
    AlertChoice.objects.create(user=alice, own_incidents=False, organisation_incidents=False)
    posted: list[tuple[bytes, str]] = []

    def post(url: str, body: bytes, headers: dict[str, str], **options: Any) -> safe_http.PostResult:
        posted.append((body, headers["webhook-id"]))
        return safe_http.PostResult(204)

    monkeypatch.setattr(safe_http, "post", post)
    tamper("UPDATE connections_auditevent SET target_name = 'x' WHERE id = %s", AuditEvent.objects.latest("pk").pk)
    with structlog.testing.capture_logs() as logs:
        run = watch(NOW)
    assert run is not None
    assert run.state == "broken"
    opened = incident()
    assert opened is not None
    assert "was altered" in opened.cause
    assert "declare_restore" in opened.action
    recipients = set(Delivery.objects.filter(incident=opened, event="opened").values_list("email", flat=True))
    assert recipients == {alice.email.lower(), carol.email.lower(), "it@example.org"}
    assert [(line["log_level"], line["event"]) for line in logs if line["log_level"] == "error"] == [
        ("error", "the audit trail is broken")
    ]
    ((body, message_id),) = posted
    assert b'"type":"audit.broken"' in body
    assert message_id == f"audit-broken-{run.pk}"


def test_whoever_removes_the_incident_does_not_stop_the_alarm(
    trail: User, alice: User, carol: User, settings: Any, monkeypatch: Any
) -> None:
    settings.AUDIT_SEAL_WEBHOOK = "https://archive.example/seals"
    posted: list[bytes] = []

    def post(url: str, body: bytes, headers: dict[str, str], **options: Any) -> safe_http.PostResult:
        posted.append(body)
        return safe_http.PostResult(503)

    monkeypatch.setattr(safe_http, "post", post)
    tamper("DELETE FROM connections_auditevent WHERE id = %s", AuditEvent.objects.latest("pk").pk)
    for hour in range(3):
        watch(NOW + hour * HOUR)
        with database.cursor() as cursor:
            cursor.execute("DELETE FROM connections_delivery")
            cursor.execute("DELETE FROM connections_notification")
            cursor.execute("DELETE FROM connections_incident")
            cursor.execute("DELETE FROM connections_auditverification")
    assert len(posted) == 3


def test_a_break_is_over_when_the_whole_trail_is_intact_and_not_before(trail: User, alice: User) -> None:
    watch(NOW)
    victim = AuditEvent.objects.earliest("pk")
    with audit_triggers.removed():
        AuditEvent._base_manager.filter(pk=victim.pk).update(target_name="x")
    verification.verify(actor=None, now=lambda: NOW + HOUR / 2)
    assert watch(NOW + HOUR) is None
    broken = watch(NOW + 2 * HOUR)
    assert broken is not None
    assert (broken.state, broken.since) == ("broken", 0)
    assert incident() is not None
    verification.verify(actor=None, now=lambda: NOW + 2 * HOUR, since=3)  # intact, but not all of it
    with audit_triggers.removed():
        AuditEvent._base_manager.filter(pk=victim.pk).update(target_name=victim.target_name)
    mended = watch(NOW + 4 * HOUR)
    assert mended is not None
    assert (mended.state, mended.since) == ("intact", 0)
    assert incident() is None


def test_missing_triggers_are_a_break_and_do_not_wait_for_the_hour(trail: User, alice: User) -> None:
    watch(NOW)
    with audit_triggers.removed():
        run = watch(NOW + timedelta(minutes=1))
        assert run is not None
        assert run.findings[0]["kind"] == "unguarded"
        assert incident() is not None
        assert watch(NOW + timedelta(minutes=2)) is None  # it has been told
    run = watch(NOW + 2 * HOUR)
    assert run is not None
    assert (run.state, run.since) == ("intact", 0)
    assert incident() is None


def test_a_sealer_that_seals_nothing_is_an_incident_until_it_goes_on(trail: User, alice: User) -> None:
    audit.record(AuditAction.ACCOUNT_CHANGED, trail, actor=trail, at=NOW)
    audit_watch.run(lambda: NOW + timedelta(minutes=10))
    assert incident(audit_watch.NOT_SEALED) is None
    audit_watch.run(lambda: NOW + timedelta(minutes=20))
    opened = incident(audit_watch.NOT_SEALED)
    assert opened is not None
    assert "15 minutes" in opened.cause
    watch(NOW + timedelta(minutes=30))
    assert incident(audit_watch.NOT_SEALED) is None


def test_an_unreadable_newest_seal_counts_as_not_sealed(trail: User, alice: User) -> None:
    audit.record(AuditAction.ACCOUNT_CHANGED, trail, actor=trail, at=NOW)
    planted = "infinity" if database.vendor == "postgresql" else "never"
    tamper("UPDATE connections_auditseal SET sealed_at = %s WHERE number = 3", planted)
    audit_watch.run(lambda: NOW + HOUR)
    assert incident(audit_watch.NOT_SEALED) is not None
    assert incident() is not None


def test_a_verification_that_never_finishes_is_an_incident(trail: User, alice: User, monkeypatch: Any) -> None:
    watch(NOW)
    monkeypatch.setattr(verification, "run_due", lambda now: [])
    audit_watch.run(lambda: NOW + 2 * HOUR)
    assert incident(audit_watch.NOT_VERIFIED) is None
    AuditVerification.objects.filter(finished_at=None).delete()
    monkeypatch.setattr(verification_schedule, "queue_due", lambda now: None)
    audit_watch.run(lambda: NOW + 2 * DAY)
    assert incident(audit_watch.NOT_VERIFIED) is not None
    monkeypatch.undo()
    watch(NOW + 2 * DAY + HOUR)
    assert incident(audit_watch.NOT_VERIFIED) is None


def test_members_learn_nothing_of_it(trail: User, alice: User, carol: User, dave: User, signed_in: Any) -> None:
    tamper("DELETE FROM connections_auditevent WHERE id = %s", AuditEvent.objects.latest("pk").pk)
    watch(NOW)
    opened = incident()
    assert opened is not None
    statuses = [signed_in(user).get(f"/incidents/{opened.pk}/").status_code for user in (alice, carol, dave, trail)]
    assert statuses == [200, 200, 404, 404]


@pytest.mark.parametrize("role", ["alice", "carol"])
def test_the_home_page_says_when_the_trail_was_verified(role: str, request: Any, trail: User, signed_in: Any) -> None:
    browser = signed_in(request.getfixturevalue(role))
    assert "never verified" in browser.get("/").content.decode()
    watch(timezone.now())
    assert "Last verified" in browser.get("/").content.decode()
    AuditVerification.objects.update(state="broken")
    assert "never verified" in browser.get("/").content.decode()


def test_the_beat_ticks_and_the_task_watches(trail: User, settings: Any) -> None:
    from connections import tasks
    from portal.celery import app, schedule

    schedule(app)
    entry = app.conf.beat_schedule["watch_audit"]
    assert (entry["task"], entry["schedule"]) == ("connections.tasks.watch_audit", settings.AUDIT_INTERVAL)
    tasks.watch_audit()
    assert AuditVerification.objects.filter(state="intact").count() == 1
    assert AuditSeal.objects.count() == 3


@pytest.mark.only_on("postgres")  # SQLite returns no time at all, so the record is not signed and does not count
def test_a_record_that_cannot_be_read_is_an_incident_too(trail: User, alice: User) -> None:
    watch(NOW)
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_auditverification SET asked_at = 'infinity'")
    with structlog.testing.capture_logs() as logs:
        assert audit_watch.run(lambda: NOW + 2 * HOUR) == []
    assert "the audit trail cannot be verified" in [line["event"] for line in logs]
    assert incident(audit_watch.NOT_VERIFIED) is not None
