"""Sign-in links: a mailbox owner without a portal account signs in for a connection."""

import logging
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
import time_machine
from django.conf import settings
from django.db import connection as database
from django.test import Client
from django.utils import timezone
from social_django.models import UserSocialAuth

from connections.models import AuditEvent, Connection, Delivery, Session, Share, SignInLink, User
from connections.services.connections import connections, sign_in_links
from connections.session_store import digest_of
from portal import access_log, logs
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person
from tests.sandbox.conftest import Browser
from tests.views.pages import assert_answer, assert_shows

GRACE = "grace@contoso.example"


def pending(owner: User) -> Connection:
    app = factories.make_app_registration()
    return connections.start_delegated(app, name="Invoices inbox", chosen=["mail.read"], actor=owner)


def link_of(connection: Connection, maker: User) -> str:
    """Create a link and return its address without the host."""
    _, token = sign_in_links.create(connection, actor=maker, now=timezone.now())
    return f"/sign-in-link/{token}/"


@pytest.fixture
def stranger(sandbox: Control) -> Person:
    """A person who is not signed in to the portal."""
    return Person(Client(), Browser(sandbox.base_url))


def test_the_owner_of_a_mailbox_connects_it_without_an_account(bob: User, stranger: Person) -> None:
    connection = pending(bob)
    link = link_of(connection, bob)
    page = stranger.get(link).content.decode()
    assert_shows(
        page,
        "Bob Member",
        "bob",
        "Invoices inbox",
        "Read mail",
        "Mail.Read",
        "Continue only if you expected this request",
    )
    people = User.objects.count()
    response = stranger.connect(stranger.post(link), GRACE)

    assert (response.status_code, response["Location"]) == (302, "/sign-in-link/done/")
    connection.refresh_from_db()
    assert (connection.status, connection.account_username, connection.owner) == ("active", GRACE, bob)
    assert "is connected" in stranger.get(response["Location"]).content.decode()
    # The visitor did not get an account, a session or a social-auth row.
    assert User.objects.count() == people
    assert not UserSocialAuth.objects.exists()
    assert "_auth_user_id" not in stranger.portal.session
    assert stranger.get(f"/connections/{connection.pk}/")["Location"].startswith("/sign-in/")
    assert stranger.get("/")["Location"].startswith("/sign-in/")


def test_the_trail_says_by_whose_link_and_from_where(bob: User, stranger: Person) -> None:
    link = link_of(pending(bob), bob)
    stranger.portal.defaults["REMOTE_ADDR"] = "10.9.8.7"
    stranger.connect(stranger.post(link), GRACE)
    events = list(AuditEvent.objects.filter(target_type="Connection").order_by("pk"))
    actions = [
        "connection.created",
        "connection.sign_in_link_made",
        "connection.sign_in_started",
        "connection.connected",
    ]
    assert [event.action for event in events] == actions
    assert events[1].actor == bob
    for event in events[2:]:
        assert event.actor is None
        assert event.actor_name == "Sign-in link made by Bob Member <bob>"
        assert event.address == "10.9.8.7"
    assert events[3].changes["sign_in_link"] == SignInLink.objects.get().pk
    assert link.split("/")[2] not in str(list(AuditEvent.objects.values()))


def test_the_connection_page_shows_a_link_once_and_stores_its_digest(person: Meet, bob: User) -> None:
    connection = pending(bob)
    page = person(bob).post(f"/connections/{connection.pk}/sign-in-link/").content.decode()
    token = page.partition("http://localhost:8000/sign-in-link/")[2].partition("/")[0]
    assert len(token) >= 43
    with database.cursor() as cursor:
        cursor.execute("SELECT * FROM connections_signinlink")
        assert token not in str(cursor.fetchall())
    assert Client().get(f"/sign-in-link/{token}/").status_code == 200
    assert "Create sign-in link for someone else" in person(bob).get(f"/connections/{connection.pk}/").content.decode()


def test_a_link_works_once(bob: User, stranger: Person, sandbox: Control) -> None:
    link = link_of(pending(bob), bob)
    stranger.connect(stranger.post(link), GRACE)
    other = Person(Client(), Browser(sandbox.base_url))
    for answer in (stranger.get(link), stranger.post(link), other.get(link), other.post(link)):
        assert_answer(answer, 410, "was already used to sign in")


def test_two_tabs_of_one_browser_use_a_link_once(bob: User, stranger: Person, sandbox: Control) -> None:
    link = link_of(pending(bob), bob)
    second = Person(stranger.portal, Browser(sandbox.base_url))
    for tab in (stranger, second):
        tab.follow_to_microsoft(tab.post(link))
        tab.consent(GRACE)
    assert stranger.return_to_portal()["Location"] == "/sign-in-link/done/"
    answer = second.return_to_portal()
    assert (answer.status_code, "was already used to sign in" in answer.content.decode()) == (410, True)
    assert AuditEvent.objects.filter(action__in=["connection.connected", "connection.reconnected"]).count() == 1


def test_a_link_belongs_to_the_first_browser_that_continues(bob: User, stranger: Person, sandbox: Control) -> None:
    link = link_of(pending(bob), bob)
    stranger.follow_to_microsoft(stranger.post(link))
    assert_answer(Person(Client(), Browser(sandbox.base_url)).post(link), 410, "another browser")
    assert stranger.post(link).status_code == 302, "the first one may try again"


def test_the_callback_of_a_link_is_useless_in_another_browser(bob: User, stranger: Person) -> None:
    """A victim cannot be tricked into finishing another person's sign-in."""
    connection = pending(bob)
    stranger.follow_to_microsoft(stranger.post(link_of(connection, bob)))
    stranger.consent(GRACE)
    parts = urlsplit(stranger.microsoft.page.headers["Location"])
    assert Client().get(f"{parts.path}?{parts.query}").status_code == 400
    assert factories.reloaded(connection).status == "pending"


def test_looking_at_a_link_changes_nothing(bob: User) -> None:
    """Email programs open links to scan them."""
    link = link_of(pending(bob), bob)
    before = (SignInLink.objects.values().get(), AuditEvent.objects.count(), Session.objects.count())
    client = Client()
    for _ in range(3):
        assert client.get(link).status_code == 200
        assert client.head(link).status_code == 200
    assert (SignInLink.objects.values().get(), AuditEvent.objects.count(), Session.objects.count()) == before


def test_a_form_of_another_site_starts_no_sign_in(bob: User) -> None:
    link = link_of(pending(bob), bob)
    client = Client(enforce_csrf_checks=True)
    client.get(link)
    assert client.post(link).status_code == 403


def test_a_planted_session_is_replaced(bob: User, stranger: Person) -> None:
    link = link_of(pending(bob), bob)
    session = stranger.portal.session
    session["planted"] = True
    session.save()
    planted = str(session.session_key)
    stranger.portal.cookies["portal_session"] = planted
    stranger.post(link)
    assert stranger.portal.cookies["portal_session"].value != planted
    assert not Session.objects.filter(session_key=digest_of(planted)).exists()


def test_a_link_expires_after_half_an_hour_also_at_microsoft(bob: User, stranger: Person) -> None:
    connection = pending(bob)
    link = link_of(connection, bob)
    stranger.follow_to_microsoft(stranger.post(link))
    stranger.consent(GRACE)
    with time_machine.travel(timezone.now() + timedelta(minutes=30, seconds=1), tick=False):
        for answer in (stranger.get(link), stranger.post(link), stranger.return_to_portal()):
            assert answer.status_code in (400, 410)
            assert "30 minutes" in answer.content.decode()
    assert factories.reloaded(connection).status == "pending"


def test_a_newer_link_revokes_the_older_one(bob: User) -> None:
    connection = pending(bob)
    old, new = link_of(connection, bob), link_of(connection, bob)
    assert "replaced by a newer one" in Client().get(old).content.decode()
    assert Client().get(new).status_code == 200


@pytest.mark.parametrize("spoil", ["removed", "disabled", "unshared", "maker left"])
@pytest.mark.parametrize("at_microsoft", [False, True])
def test_a_link_is_invalid_without_its_connection_or_creator(
    bob: User, dave: User, stranger: Person, spoil: str, at_microsoft: bool
) -> None:
    connection = pending(bob)
    Share.objects.create(connection=connection, person=dave, level="manage", created_by=bob)
    link = link_of(connection, dave)
    if at_microsoft:
        stranger.follow_to_microsoft(stranger.post(link))
        stranger.consent(GRACE)
    if spoil == "removed":
        connections.remove(connection, actor=bob, now=timezone.now())
    elif spoil == "disabled":
        connections.disable(connection, actor=bob, now=timezone.now())
    elif spoil == "unshared":
        Share.objects.update(ended_at=timezone.now())
    else:
        User.objects.filter(pk=dave.pk).update(is_active=False)
    assert_answer(
        stranger.return_to_portal() if at_microsoft else stranger.post(link), 410, "Your account wasn't connected"
    )
    assert not Connection.objects.filter(refresh_token__isnull=False).exists()


@pytest.mark.parametrize("at_microsoft", [False, True])
def test_a_link_is_invalid_when_the_permissions_changed(bob: User, stranger: Person, at_microsoft: bool) -> None:
    """Once an admin has consented for everybody, Microsoft no longer shows a page that lists the permissions."""
    connection = pending(bob)
    link = link_of(connection, bob)
    connections.change(connection, name="Invoices", chosen=["mail.read"], extra_scopes=[], actor=bob)
    assert stranger.get(link).status_code == 200, "another name is no other wish"
    if at_microsoft:
        stranger.follow_to_microsoft(stranger.post(link))
        stranger.consent(GRACE)
    connections.change(connection, name="Invoices", chosen=["mail.read", "mail.send"], extra_scopes=[], actor=bob)
    answer = stranger.return_to_portal() if at_microsoft else stranger.post(link)
    assert_answer(answer, 410, "the requested permissions have changed")
    assert not Connection.objects.filter(refresh_token__isnull=False).exists()


def test_opening_an_expired_link_is_not_recorded_as_denied(person: Meet, bob: User, dave: User) -> None:
    link = link_of(pending(bob), bob)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert person(dave).get(link).status_code == 410
    assert not AuditEvent.objects.filter(actor=dave).exists()


def test_cancelling_leaves_the_link_for_another_try(bob: User, stranger: Person) -> None:
    connection = pending(bob)
    link = link_of(connection, bob)
    stranger.follow_to_microsoft(stranger.post(link))
    stranger.microsoft.sign_in(GRACE)
    stranger.microsoft.submit("cancel", why="consent")
    page = stranger.return_to_portal().content.decode()
    assert "You cancelled the sign-in at Microsoft" in page
    assert f"/connections/{connection.pk}/" not in page
    failed = AuditEvent.objects.get(action="connection.sign_in_failed")
    assert (failed.actor, failed.actor_name) == (None, "Sign-in link made by Bob Member <bob>")
    assert stranger.connect(stranger.post(link), GRACE)["Location"] == "/sign-in-link/done/"


def test_another_account_than_the_connections_is_refused(bob: User, stranger: Person) -> None:
    connection = factories.make_connection(status="reconnect_needed")
    link = link_of(connection, bob)
    assert factories.ADA in stranger.get(link).content.decode()
    assert_answer(stranger.connect(stranger.post(link), GRACE), 400, "Nothing was changed")
    connection.refresh_from_db()
    assert (connection.status, connection.account_username) == ("reconnect_needed", factories.ADA)


def test_an_account_of_another_directory_is_refused(bob: User, stranger: Person) -> None:
    app = factories.make_multitenant_app(tid=factories.DIRECTORY_ID)
    connection = connections.start_delegated(app, name="Theirs", chosen=["mail.read"], actor=bob)
    answer = stranger.connect(stranger.post(link_of(connection, bob)), "barbara@fabrikam.example")
    assert "another directory" in answer.content.decode()
    assert not Connection.objects.filter(refresh_token__isnull=False).exists()


def test_a_made_up_answer_of_microsoft_harms_no_application(bob: User, stranger: Person) -> None:
    """Anyone with a link can put any error into the callback URL, so an error there proves nothing."""
    connection = pending(bob)
    answer = stranger.post(link_of(connection, bob))
    state = answer["Location"].partition("state=")[2].partition("&")[0]
    made_up = "error=invalid_client&error_description=AADSTS7000215%3A+Invalid+client+secret"
    stranger.get(f"/auth/complete/microsoft-connect/?state={state}&{made_up}")
    app = connection.app_registration
    assert factories.reloaded(app).rejected_at is None
    assert app.credentials.get().rejected_at is None


def test_a_signed_in_visitor_keeps_their_account(person: Meet, bob: User, dave: User) -> None:
    """Dave is signed in and opens bob's link: he consents, but gets no access."""
    connection = pending(bob)
    visitor = person(dave)
    visitor.connect(visitor.post(link_of(connection, bob)), GRACE)
    connection.refresh_from_db()
    assert (connection.status, connection.owner) == ("active", bob)
    assert visitor.portal.session["_auth_user_id"] == str(dave.pk)
    assert visitor.get(f"/connections/{connection.pk}/").status_code == 404
    assert AuditEvent.objects.get(action="connection.connected").actor is None


@pytest.mark.parametrize("token", ["x", "x" * 5000, "%00", "%ff", "ünï", "' OR 1=1"])
def test_an_unknown_link_reveals_nothing(token: str) -> None:
    answer = Client().get(f"/sign-in-link/{token}/")
    assert (answer.status_code, "valid" in answer.content.decode()) == (410, True)


@pytest.mark.usefixtures("db")
def test_an_unknown_link_leaves_no_session() -> None:
    assert Client().post("/sign-in-link/made-up/").status_code == 410
    assert not Session.objects.exists()


def test_a_portal_sign_in_lasts_as_long_as_any_after_a_link_in_the_same_browser(bob: User, stranger: Person) -> None:
    stranger.post(link_of(pending(bob), bob))
    assert stranger.portal.session.get_expiry_age() == 3600
    bob.set_password("a-long-pass-phrase")
    bob.save(update_fields=["password"])
    stranger.portal.post("/sign-in/", {"username": bob.username, "password": "a-long-pass-phrase"})
    assert "_auth_user_id" in stranger.portal.session
    assert stranger.portal.session.get_expiry_age() == settings.SESSION_COOKIE_AGE


def test_the_url_of_a_link_is_not_logged_or_cached(bob: User, caplog: pytest.LogCaptureFixture) -> None:
    link = link_of(pending(bob), bob)
    token = link.split("/")[2]
    answer = Client().get(link)
    assert answer["Referrer-Policy"] == "strict-origin"
    assert "no-store" in answer["Cache-Control"]
    record = logging.LogRecord("django.request", logging.WARNING, "", 0, "Not Found: %s", (link,), None)
    logs.HideSecrets().filter(record)
    assert token not in record.getMessage()
    assert "/sign-in-link/[hidden]/" in record.getMessage()
    scope = {"method": "GET", "path": link, "query_string": b"", "client": ("127.0.0.1", 1)}
    assert token not in access_log.line(scope, 200, 0.001)


def test_expired_links_are_removed_after_a_day(bob: User) -> None:
    link_of(pending(bob), bob)
    now = timezone.now()
    assert sign_in_links.prune(now=now + timedelta(hours=24)) == 0
    assert sign_in_links.prune(now=now + timedelta(hours=25)) == 1


def test_the_owner_is_told_by_which_account_the_link_was_used(bob: User, stranger: Person, person: Meet) -> None:
    connection = pending(bob)
    stranger.connect(stranger.post(link_of(connection, bob)), GRACE)
    mail = Delivery.objects.get(email="bob@example.org", subject="Sign-in link used: Invoices inbox")
    assert GRACE in str(mail.payload)
    page = person(bob).get(f"/connections/{connection.pk}/").content.decode()
    assert_shows(" ".join(page.split()), f"{GRACE} signed in with a sign-in link", "Created by Bob Member.")


def test_a_link_that_was_not_used_tells_nobody(bob: User, stranger: Person) -> None:
    link = link_of(pending(bob), bob)
    stranger.get(link)
    stranger.follow_to_microsoft(stranger.post(link))
    assert not Delivery.objects.filter(subject__startswith="Sign-in link used").exists()
