"""Refreshes with faults: a corrupt row, races, a slow or unavailable Microsoft, a missing cache."""

import threading
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection as database
from django.db import connections as databases
from django.db import transaction
from django.utils import timezone

from connections.errors import TokenUnavailable
from connections.microsoft import classifier
from connections.microsoft.token_endpoint import token_set
from connections.models import AppConsent, AppCredential, AppRegistration, Connection, Incident, User
from connections.services.api_keys import api_keys
from connections.services.connections import connections
from connections.services.incidents import incidents, store
from connections.services.registry import app_consents, credential_checks, credentials
from connections.services.tokens import apply_results, batch_client, fetch, scheduler
from connections.services.tokens.single_flight import TokenRequirement
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once
from tests.asgi_client import PortalClient
from tests.services.tokens.test_scheduler import read, token_calls

NOW = timezone.now()
PAST = NOW - timedelta(minutes=1)


def granted(sandbox: Control, count: int, **overrides: Any) -> list[Connection]:
    """Create connections to Ada's account that are due for a refresh, each with its own grant."""
    grants = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=count)
    values = {"refresh_after": PAST, **overrides}
    name = values.pop("name", "Inbox")
    return [
        factories.make_connection(name=f"{name} {number}", refresh_token=token, **values)
        for number, token in enumerate(grants["refresh_tokens"])
    ]


def dead() -> classifier.Verdict:
    return classifier.classify(
        where="token",
        status=400,
        headers={},
        body='{"error":"invalid_grant","error_description":"AADSTS50173: revoked.","error_codes":[50173]}',
    )


def test_an_environment_that_is_no_longer_configured_does_not_stop_others(sandbox: Control) -> None:
    (well,) = granted(sandbox, 1)
    tenant = factories.make_tenant(name="Gone", environment="moved-away", tid="", directory_id=seed.fixed_id("gone"))
    app = factories.make_app_registration(name="Stranded", tenant=tenant)
    stranded = factories.make_connection(name="Stranded", app_registration=app, refresh_after=PAST)
    scheduler.sweep(now=NOW)
    assert read(well).token_version == 2
    assert read(stranded).status == "active"


def test_an_invalid_private_key_does_not_stop_others(sandbox: Control) -> None:
    (well,) = granted(sandbox, 1)
    app = factories.make_app_registration(name="Broken key", secret=None, client_id=factories.ROBOTS_CLIENT_ID)
    AppCredential.objects.create(
        app_registration=app, kind="certificate", private_key="no PEM at all", certificate="x", thumbprint="AB" * 32
    )
    broken = factories.make_connection(name="Broken", app_registration=app, refresh_after=PAST)
    scheduler.sweep(now=NOW)
    assert read(well).token_version == 2
    assert read(broken).status == "active"


def test_an_absurd_token_response_is_stored(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1)
    batch = scheduler.claim(now=NOW, limit=5)
    (result,) = batch_client.request_tokens(batch)
    for lifetime in (10**18, 0):
        odd = {"access_token": "t\ud800", "refresh_token": "r\ud800", "scope": "Mail.Read \x00 x://[ \ud800"}
        result.answers = [(batch[0], token_set({**odd, "expires_in": lifetime}))]
        apply_results.apply([result], now=NOW)
        # The same sweep must not claim it again at once.
        assert read(connection).refresh_after > NOW
        batch = scheduler.claim_one(connection.pk, now=NOW)


def test_an_error_code_with_nul_characters_is_stored(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1)
    for body in (
        '{"error":"invalid_grant\\u0000","error_description":"AADSTS50173: \\u0000 revoked","error_codes":[50173]}',
        '{"error":"' + "x" * 300 + '"}',
        '{"error":"invalid\\u0000thing","error_description":"\\u0000","trace_id":"\\u0000","correlation_id":"\\ud800"}',
    ):
        verdict = classifier.classify(where="token", status=400, headers={}, body=body)
        batch = scheduler.claim_one(connection.pk, now=NOW)
        (result,) = batch_client.request_tokens(batch)
        result.answers = [(batch[0], verdict)]
        apply_results.apply([result], now=NOW)


def test_an_old_token_after_a_newer_refusal_leaves_status_and_incident_consistent(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1)
    late = batch_client.request_tokens(scheduler.claim_one(connection.pk, now=NOW))
    apply_results.flag(connection.pk, dead(), now=NOW, version=1)
    apply_results.apply(late, now=NOW)
    flagged = read(connection).status != "active"
    assert flagged == Incident.objects.filter(closed_at=None).exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("verb", ["disable", "remove"])
def test_an_answer_during_disabling_or_removal_leaves_no_incident(
    sandbox: Control, bob: User, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (connection,) = granted(sandbox, 1, owner=bob)
    called = {"disable": "connections_disabled", "remove": "connection_removed"}[verb]
    original = getattr(incidents, called)
    answers: list[threading.Thread] = []

    def flag() -> None:
        try:
            apply_results.flag(connection.pk, dead(), now=NOW, version=1)
        finally:
            databases.close_all()

    def meanwhile(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        answers.append(threading.Thread(target=flag))
        answers[0].start()
        answers[0].join(timeout=1)  # it either finishes here or waits for the lock until the transaction ends

    monkeypatch.setattr(incidents, called, meanwhile)
    getattr(connections, verb)(connection, actor=bob, now=NOW)
    answers[0].join(timeout=30)
    assert not Incident.objects.filter(closed_at=None).exists()


def test_a_secret_replaced_during_a_sweep_opens_no_incident(sandbox: Control, alice: User) -> None:
    (connection,) = granted(sandbox, 1)
    app = connection.app_registration
    fresh = sandbox.add_secret(factories.CLIENT_ID)
    sandbox.remove_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    late = batch_client.request_tokens(scheduler.claim(now=NOW, limit=5))
    credentials.add(app, credentials.NewSecret(fresh["value"], None), actor=alice)
    apply_results.apply(late, now=NOW)
    assert AppRegistration.objects.get().rejected_at is None
    assert not Incident.objects.exists()


@pytest.mark.only_on("postgres")  # SQLite runs one write after the other
@pytest.mark.django_db(transaction=True)
def test_the_incident_closes_when_the_last_two_recover(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    both = granted(sandbox, 2)
    for connection in both:
        apply_results.flag(connection.pk, dead(), now=NOW, version=1)
    assert Incident.objects.count() == 1
    barrier = threading.Barrier(2)
    resolve = store.resolve_affected

    def resolve_together(*args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            resolve(*args, **kwargs)
            with suppress(threading.BrokenBarrierError):
                barrier.wait(timeout=1)

    monkeypatch.setattr(incidents, "resolve_affected", resolve_together)

    at_once(*[partial(incidents.connections_recovered, [connection.pk], now=NOW) for connection in both])
    assert not Incident.objects.filter(closed_at=None).exists()


def test_failures_in_one_directory_are_no_outage_of_microsoft(sandbox: Control) -> None:
    (well,) = granted(sandbox, 1)
    other = factories.make_tenant(
        name="Elsewhere", directory_id=seed.fixed_id("elsewhere"), tid=seed.fixed_id("elsewhere")
    )
    app = factories.make_app_registration(name="Elsewhere", tenant=other, client_id=factories.ROBOTS_CLIENT_ID)
    factories.make_connection(name="Elsewhere", app_registration=app, refresh_after=PAST, trouble_count=5)
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=5))
    hanging = classifier.transport_failure("timeout")
    for result in results:
        if result.app.pk == app.pk:
            result.answers = [(due, hanging) for due, _ in result.answers]
    apply_results.apply(results, now=NOW)
    assert read(well).token_version == 2
    assert not Incident.objects.filter(kind="outage", closed_at=None).exists()


def test_an_outage_costs_one_request_and_not_one_per_batch(sandbox: Control) -> None:
    granted(sandbox, 10)
    sandbox.weather("unavailable", where="token")
    sandbox.clear_calls()
    summary = scheduler.sweep(now=NOW, limit=2)
    assert (summary.claimed, token_calls(sandbox)) == (2, 1)
    assert not Connection.objects.filter(refresh_after__lte=NOW).exists()


def test_a_token_is_issued_when_the_cache_is_down(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    (connection,) = granted(sandbox, 1, expires_at=PAST)

    def down(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no cache")

    for verb in ("add", "get", "delete"):
        monkeypatch.setattr(cache, verb, down)
    assert fetch.get_token(connection, TokenRequirement(300), now=NOW).access_token


def test_the_error_names_who_must_act_after_the_refresh(sandbox: Control, bob: User) -> None:
    (connection,) = granted(sandbox, 1, expires_at=PAST, owner=bob)
    sandbox.set_person(factories.ADA, disabled=True)
    _, text = api_keys.issue(
        bob, name="Robot", scopes=["token:read"], expires_at=NOW + timedelta(days=30), actor=bob, now=NOW
    )
    robot = PortalClient(headers={"Authorization": f"Bearer {text}"})
    body = robot.get(f"/api/v1/connections/{connection.pk}/token").json()
    assert (body["code"], body["who"]) == ("blocked", "it_admin")


def test_callers_that_poll_during_an_outage_cause_one_request(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1, expires_at=NOW - timedelta(seconds=1))
    sandbox.weather("unavailable", where="token")
    sandbox.clear_calls()
    for _ in range(10):
        with pytest.raises(TokenUnavailable):
            fetch.get_token(connection, TokenRequirement(60), now=timezone.now())
    assert token_calls(sandbox) == 1


def test_no_request_for_a_caller_while_the_app_registration_is_paused(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1, expires_at=NOW - timedelta(seconds=1))
    AppConsent.objects.update(paused_until=timezone.now() + timedelta(minutes=5))
    sandbox.clear_calls()
    with pytest.raises(TokenUnavailable):
        fetch.get_token(connection, TokenRequirement(60), now=timezone.now())
    assert token_calls(sandbox) == 0


def test_an_unreadable_credential_is_skipped_while_another_is_readable(sandbox: Control) -> None:
    (connection,) = granted(sandbox, 1)
    old = factories.make_secret(connection.app_registration, "old-secret-value", label="Old")
    with database.cursor() as cursor:
        cursor.execute(
            f"UPDATE {AppCredential._meta.db_table} SET secret = %s WHERE id = %s", ["gAAAAAnotours", old.pk]
        )
    assert scheduler.sweep(now=NOW).renewed == 1


def test_the_recovery_of_many_is_spread_over_a_minute(sandbox: Control, max_queries: Any) -> None:
    (first,) = granted(sandbox, 1)
    own = ("id", "identity")
    shared = {f.attname: getattr(first, f.attname) for f in Connection._meta.concrete_fields if f.name not in own}
    Connection.objects.bulk_create(Connection(**{**shared, "name": str(number)}) for number in range(3000))
    AppRegistration.objects.update(rejected_at=NOW, rejected_code="AADSTS7000222")
    app = AppRegistration.objects.get()
    with max_queries(40):
        credential_checks.restore_app(app, now=NOW)
    due: Counter[Any] = Counter(Connection.objects.values_list("refresh_after", flat=True))
    assert len(due) == app_consents.RECOVERY_SLOTS
    assert max(due) <= NOW + app_consents.RECOVERY_WITHIN
    assert max(due.values()) < 300
