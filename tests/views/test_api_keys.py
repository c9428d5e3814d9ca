"""Pages about API keys: a secret is shown once, and the page says which of two secrets is still used."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import ApiKey, User
from connections.services.api_keys import api_keys
from tests import factories
from tests.views.pages import assert_answer

TOMORROW = (timezone.now() + timedelta(days=1)).date().isoformat()
KEY = re.compile(r"m365p_[A-Za-z0-9]{10}_[A-Za-z0-9]{38}")


def make(client: Client, **overrides: Any) -> Any:
    form = {"name": "Robot", "scopes": ["token:read"], "expires_on": TOMORROW}
    return client.post("/api-keys/add/", form | overrides)


def test_a_secret_is_shown_only_on_the_page_after_its_creation(member: Client) -> None:
    first = KEY.findall(make(member).content.decode())[0]
    key = ApiKey.objects.get()
    rotated = member.post(f"/api-keys/{key.pk}/rotate/", {"overlap": "24", "expires_on": TOMORROW}).content.decode()
    second = KEY.findall(rotated)[0]
    assert first != second
    assert api_keys.authenticate(second, address=None, now=timezone.now()) == key
    for path in ("/api-keys/", f"/api-keys/{key.pk}/", f"/api-keys/{key.pk}/rotate/", f"/api-keys/{key.pk}/revoke/"):
        answer = member.get(path)
        assert answer.status_code == 200, path
        assert not KEY.findall(answer.content.decode()), path


def test_the_page_shows_which_of_two_secrets_is_used(bob: User, member: Client) -> None:
    key, old = api_keys.issue(
        bob,
        name="Robot",
        scopes=["token:read"],
        expires_at=timezone.now() + timedelta(days=9),
        actor=bob,
        now=timezone.now(),
    )
    before = key.prefix
    member.post(f"/api-keys/{key.pk}/rotate/", {"overlap": "24", "expires_on": TOMORROW})
    page = member.get(f"/api-keys/{key.pk}/").content.decode()
    assert "Secrets" in page
    assert before in page
    assert "The old secret was used after the rotation" not in page
    api_keys.authenticate(old, address="10.0.0.1", now=timezone.now() + timedelta(minutes=5))
    assert "The old secret was used after the rotation" in member.get(f"/api-keys/{key.pk}/").content.decode()
    listed = member.get("/api-keys/").content.decode()
    assert "Two secrets" in listed
    assert 'data-label="Last used"><time' in listed, "what uses the old secret uses the key"
    member.post(f"/api-keys/{key.pk}/end-old-secret/")
    assert ">Secret<" in member.get(f"/api-keys/{key.pk}/").content.decode()


@pytest.mark.parametrize(
    ("who", "offered"),
    [
        ("bob", {"token:read", "connections:read", "connections:write"}),
        ("carol", {"token:read", "connections:read", "connections:write", "audit:read"}),
        ("alice", set(ApiKey.Scope.values)),
    ],
)
def test_only_scopes_the_owner_may_use_are_offered_and_accepted(who: str, offered: set[str]) -> None:
    client = factories.signed_in(factories.make_person(who))
    page = client.get("/api-keys/add/").content.decode()
    assert set(re.findall(r'name="scopes" value="([^"]+)"', page)) == offered
    for number, scope in enumerate(ApiKey.Scope.values):
        answer = make(client, name=f"Robot {number}", scopes=[scope])
        assert answer.status_code == (200 if scope in offered else 422), scope


@pytest.mark.parametrize("day", ["", "2020-01-01", "9999-12-31", "soon"])
def test_a_key_needs_a_valid_last_day(member: Client, day: str) -> None:
    answer = make(member, expires_on=day)
    assert answer.status_code == 422
    assert answer.context["form"].errors["expires_on"]
    assert not ApiKey.objects.exists()


def test_an_it_admin_limits_a_key(admin: Client, bob: User) -> None:
    key, _ = factories.make_key(bob)
    for typed, stored in (("50", 50), ("0", 0), ("", None), ("-1", None), ("many", None), ("9" * 30, None)):
        admin.post(f"/api-keys/{key.pk}/limit/", {"rate_limit": typed})
        assert factories.reloaded(key).rate_limit == stored, typed


def test_rotating_a_revoked_key_shows_an_error(bob: User, member: Client) -> None:
    key, _ = factories.make_key(bob, revoked_at=timezone.now())
    answer = member.post(f"/api-keys/{key.pk}/rotate/", {"overlap": "0", "expires_on": TOMORROW})
    assert_answer(answer, 422, "revoked")


def test_the_list_costs_the_same_however_long_it_is(admin: Client, bob: User, max_queries: Any) -> None:
    for number in range(20):
        factories.make_key(bob, name=f"Robot {number}")
    admin.get("/api-keys/")
    with max_queries(9):
        page = admin.get("/api-keys/").content.decode()
    assert page.count("Robot ") >= 20


def test_expirations_list_keys_for_people_who_can_see_them(alice: User, bob: User, member: Client, dave: User) -> None:
    now = timezone.now()
    factories.make_key(bob, name="Night robot", expires_at=now + timedelta(days=20), last_used_at=now)
    factories.make_key(bob, name="Forgotten robot", expires_at=now + timedelta(days=20), last_used_at=None)
    for who, sees in ((bob, True), (alice, True), (dave, False)):
        assert ("Night robot" in factories.signed_in(who).get("/expiries/").content.decode()) is sees
    stops = member.get("/expiries/?effect=stops&kind=key").content.decode()
    assert "Night robot" in stops
    assert "Forgotten robot" not in stops
    assert "Night robot" not in member.get("/expiries/?kind=share").content.decode()
