"""The start page by role: what is broken and who must act, the user's own connections, and recent events."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection as database
from django.test import Client, RequestFactory
from django.utils import timezone

from connections import audit
from connections.models import AppCredential, Connection, ConsentLink, RunningProcess, Share, User
from connections.models.audit import AuditAction
from connections.services.operations import daily_figures, health, running_keys
from connections.services.people import offboarding
from tests import factories, full_dataset
from tests.stored_secrets import under_a_lost_key
from tests.views.pages import assert_hides, assert_shows, text


def home(user: User) -> str:
    response = factories.signed_in(user).get("/")
    assert response.status_code == 200
    return text(response)


@pytest.fixture
def everything(alice: User, bob: User) -> None:
    """Create one problem of each kind."""
    good = factories.make_app_registration()
    factories.make_connection(owner=bob, app_registration=good)
    factories.make_connection(
        name="Signed out", owner=bob, status=Connection.Status.RECONNECT_NEEDED, status_who=Connection.Who.OWNER,
        status_cause="The password was changed.", status_action="Sign in again.",
    )  # fmt: skip
    factories.make_connection(
        name="Against policy", owner=bob, status=Connection.Status.BLOCKED, status_who=Connection.Who.IT_ADMIN
    )
    bad = factories.make_app_registration(
        name="Expired app", client_id="b" * 36, tenant=good.tenant, rejected_at=timezone.now(),
        rejected_cause="Its client secret has expired.", rejected_action="Add a new one.",
    )  # fmt: skip
    factories.make_connection(name="Waits one", owner=bob, app_registration=bad)
    factories.make_connection(name="Waits two", owner=bob, app_registration=bad)
    factories.make_secret(good, "soon over", label="Old secret", expires_at=timezone.now() + timedelta(days=3))
    ConsentLink.objects.create(app_registration=good, directory_id="fabrikam.example", state_digest="d" * 64)


def test_an_empty_portal_leads_an_admin_to_the_first_connection(alice: User) -> None:
    page = home(alice)
    assert "Set up your first connection" in page
    assert page.count('href="/connect/"') == 1, "one clear way in"
    factories.make_connection(owner=alice)
    assert "Set up your first connection" not in home(alice)


def test_an_admin_sees_what_is_broken_and_who_must_act(alice: User, everything: None) -> None:
    page = home(alice)
    assert "Its client secret has expired. <strong>Add a new one.</strong>" in page
    assert 'data-label="Affected connections">2<' in page
    assert_shows(page, "Assigned to: Owners", "The password was changed.", "Assigned to: IT admins")
    assert_shows(page, "Old secret", "in 3 days", "fabrikam.example", "2 active connections can't renew tokens")
    assert "No action needed" not in page


@pytest.fixture
def running_portal() -> Iterator[None]:
    """What the portal's processes say of themselves while all is well."""
    for kind in ("web", "worker", "beat"):
        running_keys.announce(f"{kind} here:1", now=timezone.now())
    cache.set(health.LAST_SWEEP, time.time())
    yield
    cache.delete(health.LAST_SWEEP)


def test_an_admin_sees_what_is_wrong_with_the_portal_itself(alice: User, bob: User, running_portal: None) -> None:
    factories.make_connection(owner=bob)
    assert "Problems of the portal" not in home(alice)
    RunningProcess.objects.filter(name__startswith="beat").delete()
    page = home(alice)
    assert_shows(page, "Problems of the portal", "Processes: not running: beat", "Start it, and look for errors")
    assert "No issues" not in page
    assert "Problems of the portal" not in home(bob)


def test_all_is_well_unless_a_sign_in_is_unfinished(alice: User, bob: User, running_portal: None) -> None:
    factories.make_connection(owner=bob)
    assert "No action needed" in home(alice)
    factories.make_connection(owner=bob, name="Half-way", status=Connection.Status.PENDING, connected_at=None)
    admin, member = home(alice), home(bob)
    assert "1 connection not set up yet" in admin
    assert_hides(admin, "No issues", "No action needed")
    assert "1 connection not set up yet" in member
    assert "All connections work" not in member


def test_what_waits_for_the_reader_comes_by_urgency(alice: User, bob: User, dave: User) -> None:
    theirs = full_dataset.make_approval(factories.make_connection(owner=bob), requested_by=bob)
    factories.make_consent_request(factories.make_connection(owner=bob, name="Phone list"))
    factories.make_review(
        Share.objects.create(connection=factories.make_connection(owner=alice, name="Mine"), person=dave)
    )
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=timezone.now())
    page = home(alice).partition("Needs your attention")[2]
    order = [
        "left and owns connections",
        f"Approval: {theirs.connection_name}",
        "Consent request: Phone list",
        "Access review: ",
    ]
    assert sorted(order, key=page.index) == order


def test_what_one_has_asked_for_oneself_waits_for_others(alice: User) -> None:
    full_dataset.make_approval(factories.make_connection(owner=alice), requested_by=alice)
    page = home(alice)
    assert "Your approval requests" in page
    assert "Needs your attention" not in page


def test_an_admins_page_works_though_no_key_opens_a_secret(alice: User, everything: None) -> None:
    foreign = under_a_lost_key()
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = %s", [foreign])
    assert AppCredential.objects.filter(label="Old secret").exists()
    assert "Old secret" in home(alice)


def test_the_number_of_queries_does_not_follow_the_number_of_rows(
    alice: User, bob: User, carol: User, everything: None, max_queries: Any
) -> None:
    for number in range(60):
        connection = factories.make_connection(
            name=f"Number {number}", owner=bob, status=Connection.Status.RECONNECT_NEEDED
        )
        audit.record(AuditAction.CONNECTION_FLAGGED, connection, actor=None)
    for user, most in ((alice, 39), (carol, 21), (bob, 18)):
        client = factories.signed_in(user)
        with max_queries(most):
            client.get("/")


def test_a_member_without_connections_is_asked_to_connect(dave: User) -> None:
    assert_shows(home(dave), "Connect your account", 'href="/connect/"')


def test_a_member_gets_the_one_button_that_mends(bob: User, dave: User, everything: None) -> None:
    page = home(bob)
    out = Connection.objects.get(name="Signed out")
    blocked = Connection.objects.get(name="Against policy")
    well = Connection.objects.get(name="Invoices")
    assert_shows(page, f'action="/connections/{out.pk}/sign-in/"', f'action="/connections/{blocked.pk}/check/"')
    assert f'action="/connections/{well.pk}/' not in page
    assert "Assigned to: IT admins" in page
    assert page.index("Signed out") < page.index("Invoices"), "what is broken comes first"
    assert "Signed out" not in home(dave)


def test_a_member_sees_that_the_app_registration_is_to_blame(bob: User, everything: None) -> None:
    page = home(bob)
    assert_shows(page, "App credential rejected", "Microsoft rejects the app registration Expired app")


def test_an_auditor_sees_what_happened(carol: User, bob: User, connection: Connection) -> None:
    for _ in range(3):
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob)
    daily_figures.update(now=timezone.now())
    page = home(carol)
    assert_shows(page, "Connection: tested", 'href="/audit/?action=connection.checked"', '<td class="text-end">3</td>')
    assert "sign-in/" not in page.partition("<main")[2]


@pytest.mark.parametrize(("who", "sees_audit"), [("alice", True), ("bob", False), ("carol", True)])
def test_navigation_is_by_role(who: str, sees_audit: bool, request: pytest.FixtureRequest) -> None:
    page = home(request.getfixturevalue(who))
    assert ('href="/audit/"' in page.partition("<main")[0]) is sees_audit
    assert 'aria-current="page"' in page


def test_the_sandbox_is_announced_while_it_is_configured(bob: User, settings: Any) -> None:
    assert "It simulates Microsoft" not in home(bob)
    settings.MICROSOFT_SANDBOX_URL = "http://127.0.0.1:9"
    assert "It simulates Microsoft" in home(bob)


def test_errors_are_pages_with_the_number_of_the_request(member: Client, client: Client) -> None:
    missing = member.get("/connections/999999/")
    assert missing.status_code == 404
    assert missing["X-Request-ID"] in missing.content.decode()
    assert_shows(missing.content.decode(), "Page not found", "Sign out")


def test_the_page_for_our_own_mistakes_needs_no_context(rf: RequestFactory, client: Client) -> None:
    from django.views.defaults import bad_request, server_error

    assert "Something went wrong" in server_error(rf.get("/")).content.decode()
    assert "couldn't read this request" in bad_request(rf.get("/"), Exception()).content.decode()
