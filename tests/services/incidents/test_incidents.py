"""There is one incident per cause, opened and closed by Microsoft's responses."""

import random
from datetime import timedelta

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.models import (
    AffectedConnection,
    AppCredential,
    AppRegistration,
    AuditEvent,
    Connection,
    Incident,
    User,
)
from connections.services.connections import connections
from connections.services.incidents import incidents
from connections.services.registry import credentials
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.stored_secrets import encrypted

NOW = timezone.now()
GRACE = "grace@contoso.example"


def granted(sandbox: Control, count: int, upn: str = factories.ADA, **overrides: object) -> list[Connection]:
    """Create connections to one account that are due for a refresh, each with its own grant."""
    tokens = sandbox.issue_grant(factories.CLIENT_ID, upn, ["Mail.Read", "offline_access"], count=count)
    values = {
        "refresh_after": NOW - timedelta(minutes=1),
        "account_username": upn,
        "account_oid": seed.fixed_id(upn),
        **overrides,
    }
    return [
        factories.make_connection(name=f"{upn} {number}", refresh_token=token, **values)
        for number, token in enumerate(tokens["refresh_tokens"])
    ]


def reconnected(sandbox: Control, connection: Connection, now: object) -> None:
    fresh = sandbox.issue_grant(factories.CLIENT_ID, connection.account_username, ["Mail.Read", "offline_access"])
    token = encrypted(connection, refresh_token=fresh["refresh_tokens"][0])
    Connection.objects.filter(pk=connection.pk).update(**token, status="blocked", refresh_after=now)


def test_a_revoked_account_is_one_incident_for_all_its_connections(sandbox: Control) -> None:
    granted(sandbox, 3)
    granted(sandbox, 1, GRACE)
    sandbox.revoke_sessions(factories.ADA)
    scheduler.sweep(now=NOW)
    incident = Incident.objects.get()
    assert (incident.kind, incident.code, incident.who) == ("account", "AADSTS50173", "owner")
    assert incident.assignee == User.objects.get(username="bob")
    assert incident.affected.count() == 3
    assert AuditEvent.objects.filter(action="incident.opened").count() == 1


def test_it_closes_when_the_last_connection_works_again(sandbox: Control) -> None:
    first, second = granted(sandbox, 2)
    sandbox.revoke_sessions(factories.ADA)
    scheduler.sweep(now=NOW)

    later = NOW + timedelta(hours=2)
    reconnected(sandbox, first, later)
    scheduler.sweep(now=later)
    assert Incident.objects.get().is_open
    assert AffectedConnection.objects.get(connection=first).healed_at == later

    reconnected(sandbox, second, later)
    scheduler.sweep(now=later + timedelta(minutes=1))
    assert Incident.objects.get().closed_at == later + timedelta(minutes=1)
    assert AuditEvent.objects.get(action="incident.closed").changes["lasted_seconds"] == 2 * 3600 + 60


def test_the_same_problem_later_is_a_new_incident(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1)
    sandbox.revoke_sessions(factories.ADA)
    scheduler.sweep(now=NOW)
    later = NOW + timedelta(hours=1)
    reconnected(sandbox, connection, later)
    scheduler.sweep(now=later)
    sandbox.set_person(factories.ADA, disabled=True)
    Connection.objects.update(refresh_after=later)
    scheduler.sweep(now=later + timedelta(minutes=1))

    assert [incident.is_open for incident in Incident.objects.order_by("pk")] == [False, True]


def test_a_changed_cause_moves_the_connection_to_the_right_incident(sandbox: Control) -> None:
    granted(sandbox, 1)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    sandbox.set_person(factories.ADA, disabled=False)
    sandbox.revoke_sessions(factories.ADA)
    later = Connection.objects.get().refresh_after
    assert later is not None
    scheduler.sweep(now=later)

    blocked, revoked = Incident.objects.order_by("pk")
    assert (blocked.code, blocked.is_open) == ("AADSTS50057", False)
    assert (revoked.code, revoked.is_open) == ("AADSTS50173", True)


@pytest.mark.parametrize(
    ("trouble", "expected", "affected"),
    [
        ("ca_blocked", {("policy", "AADSTS53003", "it_admin")}, [4]),
        ("disabled", {("policy", "AADSTS50057", "it_admin")}, [2, 2]),
    ],
)
def test_a_policy_is_one_incident_for_all_accounts_and_each_disabled_account_is_its_own(
    sandbox: Control, trouble: str, expected: set[tuple[str, str, str]], affected: list[int]
) -> None:
    for upn in (factories.ADA, GRACE):
        granted(sandbox, 2, upn)
        sandbox.set_person(upn, **{trouble: True})
    scheduler.sweep(now=NOW)
    opened = Incident.objects.all()
    assert {(incident.kind, incident.code, incident.who) for incident in opened} == expected
    assert [incident.affected.count() for incident in opened] == affected


def test_disabling_or_removing_the_last_connection_closes_its_incident(sandbox: Control) -> None:
    first, second = granted(sandbox, 2)
    sandbox.revoke_sessions(factories.ADA)
    scheduler.sweep(now=NOW)
    bob = first.owner
    first.refresh_from_db()
    second.refresh_from_db()
    connections.disable(first, actor=bob, now=NOW)
    assert Incident.objects.get().is_open
    connections.remove(second, actor=bob, now=NOW)
    closed = Incident.objects.get()
    assert not closed.is_open
    names = set(closed.affected.values_list("connection_name", flat=True))
    assert names == {f"{factories.ADA} 0", f"{factories.ADA} 1"}, "the timeline is kept after the removal"


def test_an_expired_secret_of_500_connections_is_one_incident_and_all_recover_in_two_minutes(sandbox: Control) -> None:
    tokens = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=500)
    first = factories.make_connection(refresh_token=tokens["refresh_tokens"][0])
    shared = {
        f.attname: getattr(first, f.attname)
        for f in Connection._meta.concrete_fields
        if f.name not in ("id", "identity")
    }
    Connection.objects.bulk_create(
        Connection(**{**shared, "name": f"Inbox {number}", "refresh_token": token})
        for number, token in enumerate(tokens["refresh_tokens"][1:])
    )
    Connection.objects.update(refresh_after=NOW, refreshed_at=None)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    sandbox.clear_calls()

    moment = NOW
    for _ in range(20):  # five minutes of sweeps
        scheduler.sweep(now=moment)
        moment += timedelta(seconds=15)

    incident = Incident.objects.get()
    calls = sandbox.calls(limit=0)["by_endpoint"]["token"]
    assert (incident.kind, incident.who) == ("app_registration", "it_admin")
    assert incident.affected.count() == 500
    assert Connection.objects.exclude(status="active").count() == 0
    assert calls <= 6, f"{calls} calls in five minutes: at most one a minute"

    app = AppRegistration.objects.get()
    value = sandbox.add_secret(factories.CLIENT_ID)["value"]
    AppCredential.objects.all().delete()
    factories.make_secret(app, value)
    restored_at = moment
    slots: list[int] = []
    for _ in range(10):
        slots.append(scheduler.sweep(now=moment).renewed)
        moment += timedelta(seconds=15)
        if Connection.objects.filter(refreshed_at=None).count() == 0:
            break

    assert (moment - restored_at) <= timedelta(minutes=2)
    assert Connection.objects.filter(refreshed_at=None).count() == 0
    assert max(slots) < 250, f"spread out: {slots}"
    closed = Incident.objects.get()
    assert not closed.is_open
    assert closed.affected.filter(healed_at=None).count() == 0
    assert AuditEvent.objects.filter(action="incident.closed").count() == 1


@pytest.mark.slow
def test_a_one_hour_outage_flags_no_connection_and_recovery_is_spread_out(sandbox: Control) -> None:
    random.seed(7)
    affected = granted(sandbox, 60)
    sandbox.weather("unavailable", where="token")
    sandbox.clear_calls()

    moment = NOW
    while moment < NOW + timedelta(hours=1):
        scheduler.sweep(now=moment)
        moment += timedelta(seconds=15)

    assert {connection.status for connection in Connection.objects.all()} == {"active"}
    during = sandbox.calls(limit=0)["by_endpoint"]["token"]
    incident = Incident.objects.get()
    assert (incident.kind, incident.who) == ("outage", "microsoft")
    assert not AuditEvent.objects.filter(action="connection.flagged").exists()

    sandbox.weather("normal")
    recovered: list[int] = []
    while sum(recovered) < len(affected) and moment < NOW + timedelta(hours=2):
        recovered.append(scheduler.sweep(now=moment).renewed)
        moment += timedelta(seconds=15)

    assert sum(recovered) == len(affected)
    assert max(recovered) <= len(affected) // 3, f"requests per sweep: {recovered}"
    assert not Incident.objects.get().is_open
    assert during < 60 * 12, "one canary for all of them"


def test_a_single_failed_attempt_is_no_incident(sandbox: Control) -> None:
    granted(sandbox, 2)
    sandbox.weather("unavailable", where="token")
    scheduler.sweep(now=NOW)
    assert not Incident.objects.exists()


def test_a_missing_encryption_key_is_an_incident_until_it_is_restored(sandbox: Control) -> None:
    broken, _ = granted(sandbox, 2)
    table = Connection._meta.db_table
    with database.cursor() as cursor:
        cursor.execute(f"SELECT refresh_token FROM {table} WHERE id = %s", [broken.pk])
        (sealed,) = cursor.fetchone()
        cursor.execute(f"UPDATE {table} SET refresh_token = 'gAAAAAother' WHERE id = %s", [broken.pk])

    scheduler.sweep(now=NOW)
    incident = Incident.objects.get()
    assert (incident.kind, incident.code) == ("encryption_key", "encryption_key_missing")
    assert [row.connection_id for row in incident.affected.all()] == [broken.pk]

    with database.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET refresh_token = %s WHERE id = %s", [sealed, broken.pk])
    scheduler.sweep(now=NOW + timedelta(minutes=20))
    assert not Incident.objects.get().is_open


def test_an_unreachable_mailbox_is_an_incident_until_it_is_reachable() -> None:
    connection = factories.make_connection()
    row = factories.make_mailbox_access(
        connection, factories.make_mailbox(), state="unreachable", lack="full_access", code="403"
    )
    incidents.report_mailbox(row, now=NOW)
    incidents.report_mailbox(row, now=NOW + timedelta(days=1))
    incident = Incident.objects.get()
    assert (incident.kind, incident.seen_at) == ("mailbox", NOW + timedelta(days=1))

    incidents.connections_recovered([connection.pk], now=NOW)
    assert Incident.objects.get().is_open, "a new token does not open a mailbox"
    incidents.mailbox_reachable(row, now=NOW + timedelta(days=2))
    assert not Incident.objects.get().is_open


def test_a_new_secret_that_microsoft_accepts_closes_the_incident(sandbox: Control, alice: User) -> None:
    granted(sandbox, 2)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    scheduler.sweep(now=NOW)
    app = AppRegistration.objects.get()
    value = sandbox.add_secret(factories.CLIENT_ID)["value"]
    credentials.add(app, credentials.NewSecret(value, NOW + timedelta(days=90)), actor=alice)
    assert not Incident.objects.get().is_open
