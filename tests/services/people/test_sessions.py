"""Sessions end by themselves and on demand, and their rows are worth nothing to a thief."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.backends.base import UpdateError
from django.test import Client
from django.utils import timezone

from connections.errors import NotAllowed
from connections.models import AuditEvent, Session, User
from connections.services.people import sessions
from connections.session_store import SessionStore, digest_of
from tests import factories

pytestmark = pytest.mark.django_db


def is_signed_in(client: Client) -> bool:
    return bool(client.get("/account/").status_code == 200)


def the_row(client: Client) -> Session:
    return Session.objects.get(pk=digest_of(str(client.session.session_key)))


def test_a_session_ends_after_two_hours_without_use(bob: User) -> None:
    client = factories.signed_in(bob)
    row = the_row(client)
    assert timedelta(minutes=119) < row.expire_date - timezone.now() <= timedelta(hours=2)
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert not is_signed_in(client)


def test_use_postpones_the_idle_end_but_not_the_absolute_one(bob: User) -> None:
    client = factories.signed_in(bob)
    signed_in_at, now = timezone.now() - timedelta(hours=11), timezone.now()
    Session.objects.update(signed_in_at=signed_in_at, seen_at=now - timedelta(minutes=50))
    assert is_signed_in(client)
    row = the_row(client)
    assert row.seen_at >= now
    assert row.expire_date == signed_in_at + timedelta(hours=12)


def test_the_session_data_also_knows_the_absolute_end(bob: User) -> None:
    """A page that stores something in the session must not extend it."""
    client = factories.signed_in(bob)
    session = client.session
    session["sign_in"] = {**session["sign_in"], "at": (timezone.now() - timedelta(hours=12, minutes=1)).timestamp()}
    session.save()
    assert not is_signed_in(client)


def test_a_request_of_the_page_itself_is_no_use(bob: User) -> None:
    client = factories.signed_in(bob)
    long_ago = timezone.now() - timedelta(minutes=50)
    Session.objects.update(seen_at=long_ago)
    client.get("/account/", HTTP_HX_REQUEST="true")
    assert the_row(client).seen_at == long_ago


def test_my_sessions_are_listed_with_place_time_and_browser(client: Client, bob: User) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    headers: dict[str, Any] = {"HTTP_USER_AGENT": agent, "REMOTE_ADDR": "192.0.2.7"}
    client.post("/sign-in/", {"username": "bob", "password": factories.PASSWORD}, **headers)
    factories.signed_in(factories.make_person("una"))
    page = client.get("/account/sessions/").content.decode()
    assert "Firefox on Linux" in page
    assert "192.0.2.7" in page
    assert page.count("This session") == 1
    assert page.count(">Sign out<span") == 1


def test_one_session_is_ended_and_the_others_stay(bob: User) -> None:
    here, elsewhere = factories.signed_in(bob), factories.signed_in(bob)
    answer = here.post("/account/sessions/end/", {"session": the_row(elsewhere).pk})
    assert answer["Location"] == "/account/sessions/"
    assert is_signed_in(here)
    assert not is_signed_in(elsewhere)
    assert AuditEvent.objects.filter(action="account.session_ended", actor=bob).count() == 1


def test_somebody_elses_session_cannot_be_ended(bob: User, dave: User) -> None:
    browser, thief = factories.signed_in(bob), factories.signed_in(dave)
    thief.post("/account/sessions/end/", {"session": the_row(browser).pk})
    assert is_signed_in(browser)
    with pytest.raises(NotAllowed):
        sessions.end(bob, the_row(browser).pk, actor=dave, now=timezone.now())


def test_sign_out_everywhere_ends_all_sessions(bob: User) -> None:
    here, elsewhere = factories.signed_in(bob), factories.signed_in(bob)
    answer = here.post("/account/sessions/end-all/")
    assert answer["Location"] == "/sign-in/"
    assert not is_signed_in(here)
    assert not is_signed_in(elsewhere)
    assert AuditEvent.objects.get(action="account.signed_out_everywhere").changes == {"sessions": 2}
    assert not Session.objects.filter(person=bob).exists()


def test_an_it_admin_ends_another_persons_sessions_but_not_an_operators(alice: User, bob: User) -> None:
    browser, admin = factories.signed_in(bob), factories.signed_in(alice)
    assert admin.post(f"/people/{bob.pk}/sign-out/").status_code == 302
    assert not is_signed_in(browser)
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    assert admin.post(f"/people/{root.pk}/sign-out/").status_code == 403


def test_an_ended_session_is_not_brought_back_by_a_request_that_is_still_running(bob: User) -> None:
    client = factories.signed_in(bob)
    running = SessionStore(str(client.session.session_key))
    running["something"] = "typed"
    sessions.end_all(bob, actor=bob, now=timezone.now())
    with pytest.raises(UpdateError):
        running.save()
    running.note_use(timezone.now() + timedelta(hours=1))
    assert not Session.objects.filter(person=bob).exists()


def test_a_reader_of_the_database_cannot_use_a_session(bob: User) -> None:
    client = factories.signed_in(bob)
    row = the_row(client)
    assert str(client.session.session_key) not in (row.pk, row.session_data)
    thief = Client()
    thief.cookies["portal_session"] = row.pk
    assert not is_signed_in(thief)


def test_copied_session_data_signs_nobody_in(alice: User, dave: User) -> None:
    """Whoever writes to the database could otherwise put an IT admin's session into their own row."""
    admin, writer = factories.signed_in(alice), factories.signed_in(dave)
    Session.objects.filter(pk=the_row(writer).pk).update(session_data=the_row(admin).session_data, person=alice)
    assert not is_signed_in(writer)


def test_ended_sessions_are_pruned(bob: User) -> None:
    factories.signed_in(bob)
    assert sessions.prune(now=timezone.now()) == 0
    assert sessions.prune(now=timezone.now() + timedelta(hours=3)) == 1


@pytest.mark.parametrize("path", ["/sign-in/", "/healthz", "/connections/", "/api/v1/openapi.json", "/no-such-page"])
def test_reading_pages_without_signing_in_stores_no_session(client: Client, path: str) -> None:
    client.get(path)
    assert not Session.objects.exists()


def test_disabling_removes_the_rows(alice: User, bob: User, settings: Any) -> None:
    from connections.services.people import accounts

    factories.signed_in(bob)
    accounts.disable_person(bob, actor=alice, now=timezone.now())
    assert not Session.objects.filter(person=bob).exists()
