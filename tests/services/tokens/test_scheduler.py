"""The refresh scheduler: which connections a sweep refreshes, flags and postpones."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections import keys
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection
from connections.services.tokens import apply_results, batch_client, scheduler, store
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once
from tests.stored_secrets import encrypted

NOW = timezone.now()
NOT_DUE = {"refresh_after": NOW + timedelta(minutes=1)}


def due_connection(sandbox: Control, upn: str = factories.ADA, **overrides: Any) -> Connection:
    return factories.make_granted_connection(
        sandbox, upn, **({"refresh_after": NOW - timedelta(minutes=1)} | overrides)
    )


def token_calls(sandbox: Control) -> int:
    return int(sandbox.calls(limit=0)["by_endpoint"].get("token", 0))


def read(connection: Connection) -> Any:
    """Return the stored connection, typed as Any because these tests know which nullable columns are set."""
    return Connection.objects.get(pk=connection.pk)


def test_a_due_connection_gets_new_tokens_and_a_later_refresh(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    used = connection.refresh_token
    summary = scheduler.sweep(now=NOW)
    after = read(connection)
    assert (summary.claimed, summary.renewed, summary.flagged) == (1, 1, 0)
    assert after.refresh_token not in (None, used)
    assert after.previous_refresh_token == used
    assert after.access_token.count(".") == 2
    assert after.token_version == 2
    assert "Mail.Read" in after.granted
    assert NOW < after.refresh_after <= NOW + timedelta(hours=1)
    assert after.refresh_after < after.expires_at
    assert after.refreshed_at == after.checked_at == NOW


@pytest.mark.parametrize(
    "columns", [NOT_DUE, {"status": "pending"}, {"status": "reconnect_needed"}, {"status": "disabled"}]
)
def test_a_connection_not_due_or_that_needs_a_person_is_left_alone(sandbox: Control, columns: dict[str, Any]) -> None:
    due_connection(sandbox, **columns)
    assert scheduler.sweep(now=NOW).claimed == 0
    assert token_calls(sandbox) == 0


def test_app_only_connections_are_renewed(sandbox: Control) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "User.Read.All"])
    connection = factories.make_app_only_connection(refresh_after=NOW - timedelta(minutes=1))
    scheduler.sweep(now=NOW)
    after = read(connection)
    assert after.status == "active"
    assert after.granted == {"Mail.Read", "User.Read.All"}
    assert after.refresh_token is None


def test_several_batches_follow_each_other(sandbox: Control) -> None:
    for number in range(5):
        due_connection(sandbox, name=f"Inbox {number}")
    assert scheduler.sweep(now=NOW, limit=2).renewed == 5
    assert token_calls(sandbox) == 5


def test_refreshes_are_spread_and_leave_time_before_the_token_ends() -> None:
    for lifetime in (600, 3600, 5400, 86400):
        moments = {store.next_refresh(lifetime, now=NOW) for _ in range(50)}
        assert len(moments) > 40
        assert max(moments) < NOW + timedelta(seconds=lifetime * 0.99)
        assert max(moments) <= NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("account", "status", "code", "who"),
    [
        ({"revoked": True}, "reconnect_needed", "AADSTS50173", "owner"),
        ({"deleted": True}, "reconnect_needed", "AADSTS50034", None),
        ({"disabled": True}, "blocked", "AADSTS50057", "it_admin"),
        ({"ca_blocked": True}, "blocked", "AADSTS53003", "it_admin"),
    ],
)
def test_a_definite_refusal_flags_at_once(
    sandbox: Control, account: dict[str, bool], status: str, code: str, who: str | None
) -> None:
    connection = due_connection(sandbox)
    if account.pop("revoked", False):
        sandbox.revoke_sessions(factories.ADA)
    else:
        sandbox.set_person(factories.ADA, **account)
    scheduler.sweep(now=NOW)
    after = read(connection)
    assert (after.status, after.status_code, after.status_since) == (status, code, NOW)
    assert after.status_cause.endswith(".")
    assert after.status_action.endswith(".")
    assert who is None or after.status_who == who
    assert after.refresh_token == connection.refresh_token, "Microsoft may accept the token again"
    assert AuditEvent.objects.get(action="connection.flagged").changes["code"] == code


def test_withdrawn_consent_flags_until_it_is_granted_again(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    sandbox.withdraw_consent(factories.CLIENT_ID)
    sandbox.withdraw_consent(factories.CLIENT_ID, upn=factories.ADA)
    scheduler.sweep(now=NOW)
    flagged = read(connection)
    if flagged.status == "active":  # an ambiguous answer is confirmed by a second one
        scheduler.sweep(now=flagged.refresh_after + timedelta(seconds=1))
        flagged = read(connection)
    assert flagged.status == "consent_needed"
    assert flagged.refresh_after is not None

    sandbox.grant_consent(factories.CLIENT_ID, scopes=["Mail.Read", "offline_access"])
    scheduler.sweep(now=flagged.refresh_after + timedelta(seconds=1))

    assert read(connection).status == "active"
    assert AuditEvent.objects.filter(action="connection.healed").count() == 1


def test_an_ambiguous_refusal_flags_only_when_a_second_one_confirms_it(sandbox: Control) -> None:
    connection = due_connection(sandbox, refresh_token="1.AGarbageThatMicrosoftCannotRead")

    scheduler.sweep(now=NOW)
    first = read(connection)
    assert first.status == "active"
    assert first.suspected_code
    assert first.suspected_at == NOW
    assert first.refresh_after >= NOW + apply_results.CONFIRM_AFTER

    scheduler.sweep(now=first.refresh_after)
    second = read(connection)
    assert (second.status, second.refresh_after) == ("reconnect_needed", None)
    assert not second.suspected_code


def test_the_previous_refresh_token_is_used_when_the_new_one_is_refused(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    tokens = {"previous_refresh_token": str(connection.refresh_token), "refresh_token": "1.AGarbage"}
    Connection.objects.filter(pk=connection.pk).update(**encrypted(connection, **tokens))

    scheduler.sweep(now=NOW)
    suspected = read(connection)
    assert suspected.suspected_code
    scheduler.sweep(now=suspected.refresh_after)

    after = read(connection)
    assert after.status == "active"
    assert not after.suspected_code
    assert after.previous_refresh_token == connection.refresh_token


def test_flagging_twice_is_audited_once(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    sandbox.set_person(factories.ADA, disabled=True)
    scheduler.sweep(now=NOW)
    scheduler.sweep(now=read(connection).refresh_after)
    assert AuditEvent.objects.filter(action="connection.flagged").count() == 1
    assert read(connection).status_since == NOW


@pytest.mark.parametrize(
    "weather",
    [
        {"kind": "unavailable"},
        {"kind": "error"},
        {"kind": "broken_json"},
        {"kind": "empty_504"},
        {"kind": "throttle", "retry_after": "120"},
        {"kind": "throttle", "retry_after": "missing"},
        {"kind": "loop"},
        {"kind": "refuse"},
    ],
    ids=lambda weather: "-".join(str(value) for value in weather.values()),
)
def test_an_outage_or_throttling_never_flags_a_connection(sandbox: Control, weather: dict[str, Any]) -> None:
    connections = [due_connection(sandbox, name=f"Inbox {number}") for number in range(3)]
    sandbox.clear_calls()
    sandbox.weather(**weather, where="token")
    summary = scheduler.sweep(now=NOW)
    assert (summary.flagged, summary.renewed) == (0, 0)
    if weather["kind"] != "refuse":  # libcurl itself retries if a reused connection was dropped
        assert token_calls(sandbox) == 1, "one canary for all connections"
    for connection in connections:
        after = read(connection)
        assert (after.status, after.refresh_token) == ("active", connection.refresh_token)
        assert after.refresh_after > NOW
        assert after.trouble_count == 1
    assert not AuditEvent.objects.exists()

    sandbox.weather(kind="normal")
    later = NOW + timedelta(hours=1)
    assert scheduler.sweep(now=later).renewed == 3
    assert {read(connection).trouble_count for connection in connections} == {0}


def test_throttling_pauses_only_that_app_registration(sandbox: Control) -> None:
    mine = due_connection(sandbox)
    other_app = factories.make_app_registration(
        name="Robots", client_id=factories.ROBOTS_CLIENT_ID, secret=factories.ROBOTS_CLIENT_SECRET
    )
    sandbox.grant_consent(factories.ROBOTS_CLIENT_ID, roles=["Mail.Read"])
    factories.make_app_only_connection(app_registration=other_app, refresh_after=NOW - timedelta(minutes=1))
    sandbox.weather(kind="throttle", where="token", retry_after="300", client_id=factories.CLIENT_ID)

    assert scheduler.sweep(now=NOW).renewed == 1
    mine.app_consent.refresh_from_db()
    assert mine.app_consent.paused_until == NOW + timedelta(seconds=300)
    assert scheduler.sweep(now=NOW + timedelta(seconds=299)).claimed == 0


def test_an_expired_secret_rejects_the_app_registration_and_flags_no_connection(sandbox: Control) -> None:
    connections = [due_connection(sandbox, name=f"Inbox {number}") for number in range(5)]
    sandbox.clear_calls()
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)

    scheduler.sweep(now=NOW)
    scheduler.sweep(now=NOW + timedelta(seconds=30))

    app = AppRegistration.objects.get()
    assert (app.rejected_at, app.rejected_code) == (NOW, "AADSTS7000222")
    assert {read(connection).status for connection in connections} == {"active"}
    assert all(read(connection).is_blocked_by_app for connection in connections)
    assert token_calls(sandbox) == 1, "one canary, then none for a minute"

    scheduler.sweep(now=NOW + timedelta(seconds=61))
    assert token_calls(sandbox) == 2, "one canary a minute"

    secret = sandbox.add_secret(factories.CLIENT_ID)["value"]
    AppCredential.objects.update(**encrypted(AppCredential.objects.get(), secret=secret))
    scheduler.sweep(now=NOW + timedelta(seconds=122))

    assert AppRegistration.objects.get().rejected_at is None
    assert {read(connection).refreshed_at for connection in connections} == {NOW + timedelta(seconds=122)}


def test_the_next_secret_is_used_when_one_is_rejected(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    factories.make_secret(connection.app_registration, "wrong-secret-value", label="Newer")

    assert scheduler.sweep(now=NOW).renewed == 1

    assert AppCredential.objects.get(label="Newer").rejected_at == NOW
    assert AppRegistration.objects.get().rejected_at is None
    assert AuditEvent.objects.filter(action="credential.rejected").count() == 1


def test_an_app_registration_without_credential_is_rejected_without_a_request(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    AppCredential.objects.all().delete()
    scheduler.sweep(now=NOW)
    assert token_calls(sandbox) == 0
    assert AppRegistration.objects.get().rejected_code == "no-credential"
    assert read(connection).status == "active"


def test_a_connection_with_a_missing_encryption_key_is_neither_sent_nor_flagged(sandbox: Control) -> None:
    broken, well = due_connection(sandbox, name="Broken"), due_connection(sandbox, name="Well")
    with database.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Connection._meta.db_table} SET refresh_token = %s WHERE id = %s", ["gAAAAAnotours", broken.pk]
        )
    summary = scheduler.sweep(now=NOW)
    assert (summary.renewed, summary.flagged) == (1, 0)
    assert token_calls(sandbox) == 1
    after = Connection.objects.only("status", "trouble_code").get(pk=broken.pk)
    assert (after.status, after.trouble_code) == ("active", "encryption_key_missing")
    assert read(well).refreshed_at == NOW


def test_a_killed_worker_only_delays_its_connections_by_the_lease(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    assert len(scheduler.claim(now=NOW, limit=10)) == 1  # and then the worker dies

    assert scheduler.sweep(now=NOW + timedelta(minutes=1)).claimed == 0
    assert scheduler.sweep(now=NOW + scheduler.LEASE).renewed == 1
    assert read(connection).status == "active"


def test_it_keeps_new_tokens_when_the_owner_reconnects_during_a_refresh(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    fresh = grant["refresh_tokens"][0]
    Connection.objects.filter(pk=connection.pk).update(**encrypted(connection, refresh_token=fresh), token_version=2)
    apply_results.apply(results, now=NOW)
    assert read(connection).refresh_token == fresh


def test_a_late_refusal_of_an_old_grant_does_not_flag_a_new_one(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    sandbox.revoke_sessions(factories.ADA)
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    Connection.objects.filter(pk=connection.pk).update(token_version=2)
    apply_results.apply(results, now=NOW)
    assert read(connection).status == "active"


def test_a_connection_disabled_during_a_refresh_stays_disabled(sandbox: Control) -> None:
    connection = due_connection(sandbox, status="blocked")
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    Connection.objects.filter(pk=connection.pk).update(status="disabled")
    apply_results.apply(results, now=NOW)
    assert read(connection).status == "disabled"


def test_a_connection_removed_during_a_refresh_does_not_stop_others(sandbox: Control) -> None:
    gone, well = due_connection(sandbox, name="Gone"), due_connection(sandbox, name="Well")
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    gone.delete()
    apply_results.apply(results, now=NOW)
    assert read(well).refreshed_at == NOW


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_share_the_work(sandbox: Control) -> None:
    for number in range(12):
        due_connection(sandbox, name=f"Inbox {number}")
    sandbox.clear_calls()
    sweeps = at_once(*[partial(scheduler.sweep, now=NOW, limit=3)] * 3)
    assert sum(sweep.renewed for sweep in sweeps) == 12
    assert token_calls(sandbox) == 12


def test_tokens_are_encrypted_in_the_database(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    scheduler.sweep(now=NOW)
    after = read(connection)
    with database.cursor() as cursor:
        cursor.execute(
            "SELECT refresh_token, previous_refresh_token, access_token "
            f"FROM {Connection._meta.db_table} WHERE id = %s",
            [connection.pk],
        )
        stored = cursor.fetchone()
    for column, plain in zip(
        stored, (after.refresh_token, after.previous_refresh_token, after.access_token), strict=True
    ):
        assert column.startswith(f"{keys.current().ids[0]}:gAAAA")
        assert plain not in column
