"""An attacker tries a few passwords on many names, or many on one name; the owner still gets in."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import AuditEvent, Session, SignInLimit, User
from connections.services.people import sign_in_limits
from tests import factories

pytestmark = pytest.mark.django_db

THE_OFFICE = "198.51.100.7"


def attempt(name: str, password: str = "Summer2026!", *, address: str, client: Client | None = None) -> int:
    answer = (client or Client()).post("/sign-in/", {"username": name, "password": password}, REMOTE_ADDR=address)
    return int(answer.status_code)


def failures() -> list[dict[str, Any]]:
    events = AuditEvent.objects.filter(action="account.sign_in_failed").order_by("pk")
    return [{"name": event.actor_name, **event.changes} for event in events]


def test_one_password_on_twelve_names_from_one_address_meets_a_pause(bob: User) -> None:
    answers = [attempt(f"person{number}", address="192.0.2.1") for number in range(12)]
    assert answers == [422] * 9 + [429] * 3
    assert attempt("bob", factories.PASSWORD, address="192.0.2.1") == 429, "nor does a right guess get in"
    assert attempt("bob", factories.PASSWORD, address="192.0.2.2") == 302


def test_addresses_of_one_ipv6_network_are_one(bob: User) -> None:
    answers = [attempt(f"person{number}", address=f"2001:db8:1:2::{number:x}") for number in range(1, 13)]
    assert answers[-3:] == [429] * 3
    assert attempt("bob", factories.PASSWORD, address="2001:db8:1:3::1") == 302


def test_one_name_from_many_addresses_meets_a_pause() -> None:
    answers = [attempt("bob", address=f"192.0.2.{number}") for number in range(1, 25)]
    assert answers == [422] * 19 + [429] * 5


def test_many_names_from_many_addresses_meet_a_pause_and_then_store_nothing() -> None:
    answers = [attempt(f"person{number}", address=f"192.0.2.{number}") for number in range(1, 105)]
    assert answers.count(429) == 5
    before = SignInLimit.objects.count()
    attempt("another", address="203.0.113.1")
    assert SignInLimit.objects.count() == before


def test_the_owner_gets_in_from_a_browser_that_has_signed_in_before(bob: User) -> None:
    browser = Client()
    assert attempt("bob", factories.PASSWORD, address=THE_OFFICE, client=browser) == 302
    browser.post("/sign-out/")
    for number in range(1, 25):
        attempt("bob", address=f"192.0.2.{number}")
    for number in range(12):  # the sprayer sits in the same office
        attempt(f"person{number}", address=THE_OFFICE)
    assert attempt("bob", factories.PASSWORD, address=THE_OFFICE) == 429, "an unknown browser in that office"
    assert attempt("bob", factories.PASSWORD, address="203.0.113.5", client=browser) == 302


def test_the_owner_gets_in_from_an_address_that_has_signed_in_before(bob: User) -> None:
    assert attempt("bob", factories.PASSWORD, address=THE_OFFICE) == 302
    for number in range(1, 25):
        attempt("bob", address=f"192.0.2.{number}")
    assert attempt("bob", factories.PASSWORD, address="203.0.113.5") == 429
    assert attempt("bob", factories.PASSWORD, address=THE_OFFICE) == 302


def test_a_stolen_browser_cookie_has_its_own_limit_and_belongs_to_one_name(bob: User, dave: User) -> None:
    browser = Client()
    attempt("bob", factories.PASSWORD, address=THE_OFFICE, client=browser)
    browser.post("/sign-out/")
    assert [attempt("bob", address="192.0.2.1", client=browser) for _ in range(6)] == [422] * 4 + [429] * 2
    for number in range(10):
        attempt(f"person{number}", address="192.0.2.9")
    assert attempt("dave", factories.PASSWORD, address="192.0.2.9", client=browser) == 429


def test_a_hundred_attempts_at_once_are_not_all_checked() -> None:
    """Attempts count before the password is checked, so none slips through while another is being checked."""
    now = timezone.now()
    begun = [sign_in_limits.begin("bob", address="192.0.2.1", device="", now=now) for _ in range(5)]
    with pytest.raises(sign_in_limits.TooManyAttempts):
        sign_in_limits.begin("bob", address="192.0.2.1", device="", now=now)
    assert len(begun) == 5


def test_failures_become_one_event_for_a_name_and_window(bob: User) -> None:
    for _ in range(4):
        attempt("bob", address="192.0.2.1")
    assert failures() == [{"name": "bob", "reason": "wrong_password"}]
    sign_in_limits.close_windows(now=timezone.now() + timedelta(minutes=16))
    folded = {"name": "bob", "reason": "repeated", "limit": "name and address", "failures": 3, "refused": 0}
    assert failures()[1:] == [folded]
    assert not SignInLimit.objects.exists()


def test_a_pause_is_one_event_and_what_it_refused_another(bob: User) -> None:
    for _ in range(30):
        attempt("bob", address="192.0.2.1")
    assert [failure["reason"] for failure in failures()] == ["wrong_password", "locked_out"]
    sign_in_limits.close_windows(now=timezone.now() + timedelta(minutes=16))
    assert failures()[-1]["refused"] == 25
    assert len(failures()) == 3


def test_after_the_pause_the_window_begins_anew(bob: User) -> None:
    now = timezone.now()
    for _ in range(5):
        sign_in_limits.fail(
            sign_in_limits.begin("bob", address="192.0.2.1", device="", now=now), reason="wrong_password", now=now
        )
    with pytest.raises(sign_in_limits.TooManyAttempts) as refused:
        sign_in_limits.begin("bob", address="192.0.2.1", device="", now=now + timedelta(minutes=14))
    assert refused.value.until == now + timedelta(minutes=15)
    sign_in_limits.begin("bob", address="192.0.2.1", device="", now=now + timedelta(minutes=15))


def test_a_name_is_one_however_it_is_written(bob: User) -> None:
    answers = [attempt(name, address="192.0.2.1") for name in ("bob", "BOB", " bob", "Bob", "bOb", "boB")]
    assert answers == [422] * 4 + [429] * 2


def test_spellings_that_sign_in_as_one_name_are_one(bob: User) -> None:
    """Django normalises a name before it looks it up, so these all try bob's password."""
    # Mathematical letters b in eight styles, and the full-width letter.
    spellings = [chr(letter) + "ob" for letter in (0x1D41B, 0x1D44F, 0x1D483, 0x1D4B7, 0x1D4EB, 0x1D51F, 0xFF42)]
    answers = [attempt(name, address=f"192.0.2.{number}") for number, name in enumerate(spellings * 4, start=1)]
    assert answers == [422] * 19 + [429] * 9
    assert attempt("bob", address="192.0.2.99") == 429


def test_an_address_may_begin_only_so_many_sign_ins_at_microsoft(settings: Any, monkeypatch: Any) -> None:
    settings.LOGIN_MICROSOFT = {**settings.LOGIN_MICROSOFT, "tenant": "c" * 8, "client_id": "1", "client_secret": "2"}
    monkeypatch.setattr(sign_in_limits, "MOST_STARTS", 3)
    answers = [Client().post("/auth/login/microsoft/", REMOTE_ADDR="192.0.2.1").status_code for _ in range(5)]
    assert answers[-2:] == [429, 429]
    assert Session.objects.count() <= 3
