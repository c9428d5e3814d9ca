"""Signing in and out, the account page, and failed sign-ins."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from connections.models import AuditEvent, User
from tests import factories
from tests.records import actions
from tests.views.pages import assert_shows


def attempt(client: Client, username: str = "bob", password: str = factories.PASSWORD, **more: Any) -> Any:
    return client.post(reverse("sign_in"), {"username": username, "password": password, **more})


@pytest.fixture
def with_microsoft(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": "contoso.example", "client_id": "1"}


def test_a_stranger_is_led_to_the_sign_in_page_and_back(client: Client, bob: User) -> None:
    first = client.get("/account/")
    assert first.status_code == 302
    assert first["Location"] == "/sign-in/?next=/account/"
    page = client.get(first["Location"])
    assert 'name="next" value="/account/"' in page.content.decode()
    assert attempt(client, next="/account/").url == "/account/"
    assert client.get("/account/").status_code == 200


def test_who_was_signed_out_when_they_pressed_a_button_is_told_so_after_signing_in(client: Client, bob: User) -> None:
    path = f"/connections/{factories.make_connection(owner=bob).pk}/check/"
    answer = client.post(path)
    assert answer["Location"] == f"/sign-in/?next={path}"
    answer = client.get(attempt(client, next=path).url)
    assert (answer.status_code, answer["Allow"]) == (405, "POST")
    assert "select it again" in answer.content.decode()


def test_a_local_password_signs_in_and_is_recorded(client: Client, bob: User) -> None:
    answer = attempt(client)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    event = AuditEvent.objects.get(action="account.signed_in")
    assert event.actor == bob
    assert event.changes == {"method": "password"}
    assert event.address == "127.0.0.1"


def test_a_wrong_password_is_refused_and_recorded_without_the_password(client: Client, bob: User) -> None:
    answer = attempt(client, password="not it at all")
    assert answer.status_code == 422
    assert "Incorrect user name or password" in answer.content.decode()
    assert "not it at all" not in answer.content.decode()
    event = AuditEvent.objects.get(action="account.sign_in_failed")
    assert event.outcome == AuditEvent.Outcome.DENIED
    assert event.actor_name == "bob"
    assert "not it at all" not in str(event.changes)


def test_nobody_learns_whether_a_name_exists(client: Client, bob: User) -> None:
    bob.is_active = False
    bob.save()
    texts = {
        attempt(client, username=name, password=word).content.decode().replace(f'value="{name}"', "")
        for name, word in (("bob", factories.PASSWORD), ("nobody", "x"))
    }
    assert all("Incorrect user name or password" in text for text in texts)


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example", "http:///evil.example"],
)
def test_next_never_leads_to_another_site(client: Client, bob: User, wanted: str) -> None:
    assert "evil" not in client.get("/sign-in/", {"next": wanted}).content.decode()
    assert attempt(client, next=wanted).url == "/"
    assert client.get("/sign-in/", {"next": wanted})["Location"] == "/"


def test_after_too_many_wrong_passwords_even_the_right_one_waits(client: Client, bob: User, settings: Any) -> None:
    for _ in range(settings.LOGIN_FAILURE_LIMIT - 1):
        assert attempt(client, password="wrong").status_code == 422
    locked = attempt(client, password="wrong")
    assert locked.status_code == 429
    assert locked["Retry-After"] == "900"
    assert "Try again <time" in locked.content.decode()
    assert attempt(client).status_code == 429
    assert "_auth_user_id" not in client.session
    reasons = [event.changes["reason"] for event in AuditEvent.objects.filter(action="account.sign_in_failed")]
    assert sorted(reasons) == ["locked_out", "wrong_password"], (
        "the others are folded; tests/attacks/test_password_spraying.py"
    )
    other = Client(REMOTE_ADDR="192.0.2.8")
    assert attempt(other).status_code == 302


@pytest.mark.parametrize("username", ["", "x" * 5000, "böb\u200b", "a\x00b", "<script>"])
def test_odd_names_are_refused_quietly(client: Client, username: str) -> None:
    answer = attempt(client, username=username, password="wrong")
    assert answer.status_code == 422
    assert "<script>" not in answer.content.decode().partition("<main")[2]


def test_the_microsoft_button_is_there_only_when_it_is_configured(client: Client) -> None:
    assert "Sign in with Microsoft" not in client.get("/sign-in/").content.decode()


def test_the_microsoft_button_is_a_form_that_posts(client: Client, with_microsoft: None) -> None:
    page = client.get("/sign-in/?next=/account/").content.decode()
    assert_shows(page, "Sign in with Microsoft", 'method="post" action="/auth/login/microsoft/"')
    assert page.index("Sign in with Microsoft") < page.index("Use a local password")


def test_signing_out_takes_a_post_and_is_recorded(member: Client) -> None:
    assert member.get("/sign-out/").status_code == 405
    answer = member.post("/sign-out/")
    assert (answer.status_code, answer["Location"]) == (302, "/sign-in/")
    assert member.get("/account/").status_code == 302
    assert actions() == ["account.signed_out"]


@pytest.mark.parametrize(("who", "role"), [("alice", "IT admin"), ("bob", "Member"), ("carol", "Auditor")])
def test_the_account_page_tells_role_and_own_events(client: Client, who: str, role: str) -> None:
    factories.make_person(who)
    attempt(client, username=who)
    page = client.get("/account/").content.decode()
    assert role in page
    assert ">Details<" in page
    assert " signed in" in page
    assert ("/audit/?who=" in page) is (who != "bob")


def test_members_read_only_their_own_events(client: Client, member: Client, dave: User) -> None:
    attempt(client, username="dave")
    assert "Account: signed in" not in member.get("/account/").content.decode()
