"""Answers to consent links: everything but the one-time state can be forged, and the state may be stolen."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import AuditEvent, ConsentLink, ConsentRequest, Delivery, User
from connections.services.consent import admin_consent, outcomes, requests
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.records import subjects
from tests.services.consent.test_admin_consent import came_back, delegated, grant, query, robots, withdraw
from tests.views.pages import assert_answer, assert_hides, assert_shows, text

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sandbox")]
State = ConsentLink.State
CALLBACK = "/consent/callback/"


def requested(bob: User, alice: User) -> tuple[ConsentRequest, ConsentLink, str]:
    """Bob's request for an app-only connection's permissions, which alice has approved with a link."""
    connection = factories.make_app_only_connection(
        app_registration=robots(), owner=bob, granted_scopes="", status="consent_needed"
    )
    request = requests.request_consent(connection, reason="Invoices", actor=bob, now=timezone.now())
    request, url = requests.approve(request, actor=alice, now=timezone.now())
    assert request.link is not None
    return request, request.link, url


def check_until(link: ConsentLink, end: timedelta) -> int:
    """Run the periodic check every minute from the answer on; returns how many checks asked Microsoft."""
    assert link.answered_at is not None
    checks, now = 0, link.answered_at
    while now < link.answered_at + end:
        now += timedelta(minutes=1)
        before = factories.reloaded(link).check_after
        admin_consent.verify_open(now=now)
        checks += factories.reloaded(link).check_after != before
    return checks


def test_an_answer_for_another_directory_is_a_failure_and_reveals_nothing(
    alice: User, bob: User, client: Client
) -> None:
    request, link, url = requested(bob, alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url, admin_consent='True', tenant=seed.FABRIKAM)}"))
    assert_shows(page, "Failed", "a different directory")
    assert_hides(page, seed.FABRIKAM, factories.DIRECTORY_ID, "Alice", "Bob", "granted and verified")
    link, request = factories.reloaded(link), factories.reloaded(request)
    assert (link.state, link.code, link.reported_tid) == (State.FAILED, "wrong_directory", seed.FABRIKAM)
    assert request.state == ConsentRequest.State.FAILED
    assert subjects("bob@example.org")[-1].startswith("Not granted: consent for")
    assert "Consent failed: Contoso Robots" in subjects("alice@example.org")
    assert admin_consent.verify_open(now=timezone.now() + timedelta(days=1)) == 0, "a failed link is never verified"


@pytest.mark.parametrize("second", [{}, {"error": "permission_denied"}, {"admin_consent": "True", "tenant": "x"}])
def test_a_replayed_state_changes_and_tells_nothing(
    alice: User, bob: User, client: Client, second: dict[str, str]
) -> None:
    _, link, url = requested(bob, alice)
    client.get(f"{CALLBACK}?{came_back(url, error='permission_denied')}")
    before = (AuditEvent.objects.count(), Delivery.objects.count(), ConsentLink.objects.values().get())
    assert_answer(client.get(f"{CALLBACK}?{came_back(url, **second)}"), 400, "no longer valid")
    assert (AuditEvent.objects.count(), Delivery.objects.count(), ConsentLink.objects.values().get()) == before
    assert factories.reloaded(link).state == State.DECLINED


def test_the_state_of_one_link_answers_no_other(alice: User, client: Client) -> None:
    first, _ = admin_consent.start(robots(), actor=alice)
    second, url = admin_consent.start(delegated(name="Other"), actor=alice)
    client.get(f"{CALLBACK}?{came_back(url, error='permission_denied')}&client_id={first.app_registration.client_id}")
    assert (factories.reloaded(first).state, factories.reloaded(second).state) == (State.OPEN, State.DECLINED)
    repeated = f"state={query(url)['state']}&admin_consent=True&state=x"
    assert client.get(f"{CALLBACK}?{repeated}").status_code == 400


def test_success_with_nothing_granted_ends_as_a_failure_that_everybody_is_told(
    sandbox: Control, alice: User, bob: User, client: Client
) -> None:
    withdraw(sandbox)
    request, link, url = requested(bob, alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url)}"))
    assert_shows(page, "Reported, checking", "The portal checks automatically.")
    link = factories.reloaded(link)
    assert link.state == State.GRANTED
    assert subjects("bob@example.org")[-1].startswith("Consent reported:")
    assert subjects("alice@example.org")[-1] == "Consent reported: Contoso Robots"

    assert check_until(link, timedelta(hours=20)) == len(outcomes.CHECKS)
    link, request = factories.reloaded(link), factories.reloaded(request)
    assert (link.state, link.code, link.check_after) == (State.FAILED, "not_found_in_tokens", None)
    assert request.state == ConsentRequest.State.FAILED
    assert subjects("bob@example.org")[-1].startswith("Not granted: consent for")
    assert "Consent not found: Contoso Robots" in subjects("alice@example.org")


def test_a_partial_grant_is_told_as_such_and_heals(sandbox: Control, alice: User, bob: User, client: Client) -> None:
    withdraw(sandbox)
    grant(sandbox, "User.Read.All")
    request, link, url = requested(bob, alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url)}"))
    assert_shows(page, "Reported, checking", "Not granted so far: Mail.Read")
    assert_hides(page, "Tokens contain")
    link = factories.reloaded(link)
    check_until(link, timedelta(minutes=40))
    link, request = factories.reloaded(link), factories.reloaded(request)
    assert (link.state, link.missing) == (State.PARTIAL, "Mail.Read")
    assert (request.state, "Mail.Read" in request.answer) == (ConsentRequest.State.FAILED, True)
    assert "Consent incomplete: Contoso Robots" in subjects("alice@example.org")
    assert AuditEvent.objects.get(action="consent.partial").changes["missing"] == "Mail.Read"

    grant(sandbox, "Mail.Read")
    check_until(link, timedelta(hours=3))
    assert factories.reloaded(link).state == State.VERIFIED
    assert factories.reloaded(request).state == ConsentRequest.State.VERIFIED


def test_a_delegated_consent_that_lacks_a_permission_is_partial_after_the_next_sign_in(alice: User) -> None:
    app = delegated()
    _, url = admin_consent.start(app, scopes=["Mail.Read", "Mail.Send", "openid"], actor=alice)
    scope = "openid https://graph.microsoft.com/Mail.Read"
    answer = came_back(url, admin_consent="True", tenant=factories.DIRECTORY_ID, scope=scope)
    link = admin_consent.record_callback(answer, actor=None, now=timezone.now())
    assert (link.state, link.missing, link.check_after) == (State.GRANTED, "Mail.Send", None)
    admin_consent.verify_from_token(app, granted=["Mail.Read"], now=timezone.now(), tid=factories.DIRECTORY_ID)
    assert factories.reloaded(link).state == State.PARTIAL
    admin_consent.verify_from_token(app, granted=["Mail.Read", "Mail.Send"], now=timezone.now())
    assert factories.reloaded(link).state == State.VERIFIED


def test_a_scope_in_the_answer_never_verifies(alice: User) -> None:
    _, url = admin_consent.start(delegated(), scopes=["Mail.Read"], actor=alice)
    answer = came_back(url, admin_consent="True", tenant=factories.DIRECTORY_ID, scope="Mail.Read <b> x" * 900)
    link = admin_consent.record_callback(answer, actor=None, now=timezone.now())
    assert (link.state, link.missing) == (State.GRANTED, "")


def test_a_visitor_reads_nothing_about_a_broken_app_registration(sandbox: Control, alice: User, client: Client) -> None:
    _, url = admin_consent.start(robots(secret="sbx8Q~wrong"), actor=alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url)}"))
    assert_shows(page, "Reported, checking")
    assert_hides(page, "secret", "couldn't verify")


Step = Callable[..., Any]


def test_two_workers_ask_microsoft_once(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    admin_consent.start(robots(), actor=alice)
    now, asked = timezone.now() + timedelta(hours=2), []

    def verify(link: ConsentLink, *, actor: User | None, now: datetime) -> bool:
        asked.append(link.pk)
        admin_consent.verify_open(now=now)  # the other worker, meanwhile
        return False

    monkeypatch.setattr(admin_consent, "verify", verify)
    admin_consent.verify_open(now=now)
    assert len(asked) == 1


def test_a_worker_that_is_killed_leaves_the_next_check_scheduled(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    link = admin_consent.record_callback(came_back(url), actor=None, now=timezone.now())
    with monkeypatch.context() as patch:
        patch.setattr(admin_consent, "_granted_roles", _killed)
        with pytest.raises(KeyboardInterrupt):
            admin_consent.verify_open(now=timezone.now() + timedelta(minutes=2))
    assert factories.reloaded(link).check_after is not None
    assert admin_consent.verify_open(now=timezone.now() + timedelta(minutes=10)) == 1


def _killed(link: ConsentLink, expected: tuple[str, ...]) -> tuple[str, ...]:
    raise KeyboardInterrupt


def test_an_administrator_who_comes_back_after_the_check_reads_that_it_is_verified(alice: User, client: Client) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    assert admin_consent.verify_open(now=timezone.now() + timedelta(minutes=1)) == 1
    assert "Consent verified: Contoso Robots" in subjects("alice@example.org")
    assert_answer(client.get(f"{CALLBACK}?{came_back(url)}"), 200, "Consent is granted and verified.")
    assert client.get(f"{CALLBACK}?{came_back(url)}").status_code == 400
