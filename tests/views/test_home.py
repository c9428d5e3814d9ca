"""The start page by role: what is broken and who must act, the user's own connections, and recent events."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection as database
from django.test import Client, RequestFactory
from django.utils import timezone

from connections import audit
from connections.models import AppCredential, Connection, ConsentLink, Share, User
from connections.models.audit import AuditAction
from connections.services.people import offboarding
from tests import factories, full_dataset
from tests.views.pages import SignIn, assert_hides, assert_shows, text


def home(signed_in: SignIn, user: User) -> str:
    response = signed_in(user).get("/")
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


def test_an_admin_is_led_through_the_first_steps(signed_in: SignIn, alice: User) -> None:
    page = home(signed_in, alice)
    assert "Four steps to the first connection" in page
    assert page.count("To do") == 4
    assert 'href="/tenants/add/"' in page
    assert 'href="/apps/add/"' not in page, "one step at a time"
    factories.make_app_registration()
    page = home(signed_in, alice)
    assert page.count(">Done<") == 3
    assert page.count("To do") == 1


def test_an_admin_sees_what_is_broken_and_who_must_act(signed_in: SignIn, alice: User, everything: None) -> None:
    page = home(signed_in, alice)
    assert "Its client secret has expired. <strong>Add a new one.</strong>" in page
    assert 'data-label="Connections that wait">2<' in page
    assert "Their owners must act" in page
    assert "The password was changed." in page
    assert "An IT admin must act" in page
    assert_shows(page, "Old secret", "in 3 days", "fabrikam.example", "2 of the active connections wait because")
    assert "Nobody needs to act" not in page


def test_all_is_well_unless_a_sign_in_is_unfinished(signed_in: SignIn, alice: User, bob: User) -> None:
    factories.make_connection(owner=bob)
    assert "Nobody needs to act" in home(signed_in, alice)
    factories.make_connection(owner=bob, name="Half-way", status=Connection.Status.PENDING, connected_at=None)
    admin, member = home(signed_in, alice), home(signed_in, bob)
    assert "1 connection waits for the first sign-in or a decision" in admin
    assert_hides(admin, "Everything works", "Nobody needs to act")
    assert "1 of them waits for a sign-in or a decision." in member
    assert "All is well" not in member


def test_what_waits_for_the_reader_comes_first_by_urgency(
    signed_in: SignIn, alice: User, bob: User, dave: User
) -> None:
    connection = factories.make_connection(owner=bob)
    theirs = full_dataset.make_approval(connection, requested_by=bob)
    factories.make_consent_request(factories.make_connection(owner=bob, name="Phone list"))
    factories.make_review(
        Share.objects.create(connection=factories.make_connection(owner=alice, name="Mine"), person=dave)
    )
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=timezone.now())
    page = home(signed_in, alice).partition("What waits for you")[2]
    order = ["has left and owns", f"Approval of {theirs.connection_name}", "Consent for Phone list", "Access review: "]
    assert sorted(order, key=page.index) == order


def test_what_one_has_asked_for_oneself_waits_for_others(signed_in: SignIn, alice: User) -> None:
    full_dataset.make_approval(factories.make_connection(owner=alice), requested_by=alice)
    page = home(signed_in, alice)
    assert "Approvals you asked for" in page
    assert "What waits for you" not in page


def test_an_admins_page_works_though_no_key_opens_a_secret(signed_in: SignIn, alice: User, everything: None) -> None:
    foreign = Fernet(Fernet.generate_key()).encrypt(b"secret").decode()
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = %s", [foreign])
    assert AppCredential.objects.filter(label="Old secret").exists()
    assert "Old secret" in home(signed_in, alice)


def test_the_number_of_queries_does_not_follow_the_number_of_rows(
    signed_in: SignIn, alice: User, bob: User, carol: User, everything: None, django_assert_max_num_queries: Any
) -> None:
    for number in range(60):
        connection = factories.make_connection(
            name=f"Number {number}", owner=bob, status=Connection.Status.RECONNECT_NEEDED
        )
        audit.record(AuditAction.CONNECTION_FLAGGED, connection, actor=None)
    for user, most in ((alice, 19), (carol, 9), (bob, 8)):
        client = signed_in(user)
        with django_assert_max_num_queries(most):
            client.get("/")


def test_a_member_without_connections_is_asked_to_connect(signed_in: SignIn, dave: User) -> None:
    page = home(signed_in, dave)
    assert_shows(page, "Connect your account", 'href="/connections/add/"')


def test_a_member_gets_the_one_button_that_mends(signed_in: SignIn, bob: User, dave: User, everything: None) -> None:
    page = home(signed_in, bob)
    out = Connection.objects.get(name="Signed out")
    blocked = Connection.objects.get(name="Against policy")
    well = Connection.objects.get(name="Invoices")
    assert_shows(page, f'action="/connections/{out.pk}/sign-in/"', f'action="/connections/{blocked.pk}/check/"')
    assert f'action="/connections/{well.pk}/' not in page
    assert "Must act: an IT admin." in page
    assert page.index("Signed out") < page.index("Invoices"), "what is broken comes first"
    assert "Signed out" not in home(signed_in, dave)


def test_a_member_sees_that_the_app_registration_is_to_blame(signed_in: SignIn, bob: User, everything: None) -> None:
    page = home(signed_in, bob)
    assert_shows(page, "Blocked by its app registration", "Microsoft rejects the app registration Expired app")


def test_an_auditor_sees_what_happened(signed_in: SignIn, carol: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    for _ in range(3):
        audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob)
    page = home(signed_in, carol)
    assert_shows(page, "Connection: checked", 'href="/audit/?action=connection.checked"', '<td class="text-end">3</td>')
    assert "sign-in/" not in page.partition("<main")[2]


@pytest.mark.parametrize(("who", "sees_audit"), [("alice", True), ("bob", False), ("carol", True)])
def test_navigation_is_by_role(signed_in: SignIn, who: str, sees_audit: bool, request: pytest.FixtureRequest) -> None:
    page = home(signed_in, request.getfixturevalue(who))
    assert ('href="/audit/"' in page.partition("<main")[0]) is sees_audit
    assert 'aria-current="page"' in page


def test_the_sandbox_is_announced_while_it_is_configured(signed_in: SignIn, bob: User, settings: Any) -> None:
    assert "stand-in for Microsoft" not in home(signed_in, bob)
    settings.MICROSOFT_SANDBOX_URL = "http://127.0.0.1:9"
    assert "stand-in for Microsoft" in home(signed_in, bob)


def test_errors_are_pages_with_the_number_of_the_request(member: Client, client: Client) -> None:
    missing = member.get("/connections/999999/")
    assert missing.status_code == 404
    assert missing["X-Request-ID"] in missing.content.decode()
    assert "There is nothing here" in missing.content.decode()
    assert "Sign out" in missing.content.decode()


def test_the_page_for_our_own_mistakes_needs_no_context(rf: RequestFactory, client: Client) -> None:
    from django.views.defaults import bad_request, server_error

    assert "The portal made a mistake" in server_error(rf.get("/")).content.decode()
    assert "could not be read" in bad_request(rf.get("/"), Exception()).content.decode()
