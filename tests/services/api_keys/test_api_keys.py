"""API keys: what they may be for, how long they last, and how their secret is changed without a gap."""

from __future__ import annotations

import re
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections as databases
from django.utils import timezone

from connections.errors import InUse, InvalidApiKey, InvalidInput, NotAllowed
from connections.models import ApiKey, AuditEvent, Delivery, User
from connections.services.api_keys import api_keys
from connections.services.expiry import api_key_expiry, calendar, credential_expiry
from connections.services.people import accounts
from tests import factories

pytestmark = pytest.mark.django_db
NOW = timezone.now()
DAY = timedelta(days=1)


def issue(owner: User, **overrides: Any) -> tuple[ApiKey, str]:
    values: dict[str, Any] = {
        "name": "Robot",
        "scopes": ["token:read"],
        "expires_at": NOW + 30 * DAY,
        "actor": owner,
        "now": NOW,
    }
    return api_keys.issue(owner, **(values | overrides))


def rotate(key: ApiKey, actor: User, **overrides: Any) -> str:
    values: dict[str, Any] = {"overlap": DAY, "expires_at": NOW + 365 * DAY, "now": NOW}
    return api_keys.rotate(ApiKey.objects.get(pk=key.pk), actor=actor, **(values | overrides))[1]


def works(text: str, now: datetime = NOW) -> bool:
    try:
        api_keys.authenticate(text, address="10.0.0.1", now=now)
    except InvalidApiKey:
        return False
    return True


# --- What a key may be for, and how long ----------------------------------------------------------


def test_a_scope_is_for_owners_who_hold_its_role(alice: User, bob: User, carol: User) -> None:
    for owner, scope, allowed in (
        (bob, "connections:write", True),
        (bob, "admin:read", False),
        (bob, "audit:read", False),
        (carol, "audit:read", True),
        (carol, "admin:write", False),
        (alice, "admin:write", True),
        (alice, "audit:read", True),
        (alice, "no:such", False),
    ):
        if allowed:
            assert issue(owner, name=scope, scopes=[scope])[0].scopes == [scope]
        else:
            with pytest.raises(InvalidInput) as refused:
                issue(owner, name=scope, scopes=[scope])
            assert refused.value.field == "scopes"


def test_a_key_needs_an_end_within_what_is_configured(bob: User, settings: Any) -> None:
    settings.API_KEY_MAX_DAYS = 10
    for end in (None, NOW, NOW - DAY, NOW + 12 * DAY):
        with pytest.raises(InvalidInput) as refused:
            issue(bob, expires_at=end)
        assert refused.value.field == "expires_at"
    assert issue(bob, expires_at=NOW + 10 * DAY)[0].is_valid(NOW)
    settings.API_KEY_MAX_DAYS = 0
    assert issue(bob, name="For ever", expires_at=None)[0].is_valid(NOW + 9999 * DAY)


def test_nobody_makes_a_key_in_another_persons_name(alice: User, bob: User) -> None:
    with pytest.raises(NotAllowed):
        issue(bob, actor=alice)


def test_a_key_fits_the_expression_that_is_told_to_secret_scanners(bob: User) -> None:
    text = issue(bob)[1]
    assert re.fullmatch(r"m365p_[A-Za-z0-9]{10}_[A-Za-z0-9]{38}", text)


# --- Rotation -------------------------------------------------------------------------------------


def test_both_secrets_work_until_the_overlap_is_over(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    assert works(old)
    assert works(new)
    assert works(old, NOW + DAY - timedelta(seconds=1))
    assert not works(old, NOW + DAY)
    assert works(new, NOW + DAY)
    event = AuditEvent.objects.get(action="api_key.rotated")
    assert old not in str(event.changes)
    assert new not in str(event.changes)


def test_without_an_overlap_the_old_secret_ends_at_once(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob, overlap=timedelta())
    assert (works(old), works(new)) == (False, True)


def test_the_secret_before_last_ends_with_the_next_rotation(bob: User) -> None:
    key, first = issue(bob)
    second = rotate(key, bob)
    third = rotate(key, bob)
    assert (works(first), works(second), works(third)) == (False, True, True)


def test_the_old_secret_can_be_ended_early_and_twice(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    for _ in range(2):
        api_keys.revoke_previous(ApiKey.objects.get(pk=key.pk), actor=bob, now=NOW)
    assert (works(old), works(new)) == (False, True)
    assert AuditEvent.objects.filter(action="api_key.old_secret_ended").count() == 1


def test_revoking_ends_both_secrets(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    api_keys.revoke(key, actor=bob, now=NOW)
    assert (works(old), works(new)) == (False, False)
    with pytest.raises(InvalidInput):
        rotate(key, bob)


def test_an_expired_key_comes_back_with_its_new_secret_alone(bob: User) -> None:
    key, old = issue(bob)
    ApiKey.objects.update(expires_at=NOW - DAY)
    new = rotate(key, bob)
    assert (works(old), works(new)) == (False, True)


def test_the_end_of_the_key_is_the_end_of_its_old_secret_too(bob: User) -> None:
    key, old = issue(bob)
    rotate(key, bob, overlap=7 * DAY, expires_at=NOW + 2 * DAY)
    assert works(old, NOW + DAY)
    assert not works(old, NOW + 3 * DAY)


def test_the_use_of_each_secret_is_noted_apart(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    works(old, NOW + timedelta(hours=1))
    key.refresh_from_db()
    assert (key.previous_used_at, key.last_used_at) == (NOW + timedelta(hours=1), None)
    works(new, NOW + timedelta(hours=2))
    key.refresh_from_db()
    assert (key.previous_used_at, key.last_used_at) == (NOW + timedelta(hours=1), NOW + timedelta(hours=2))


def test_a_key_whose_old_secret_is_still_used_counts_as_used(bob: User) -> None:
    key, old = issue(bob, expires_at=NOW + 9 * DAY)
    rotate(key, bob, expires_at=NOW + 9 * DAY)
    ends = calendar.of_keys(ApiKey.objects.all(), now=NOW)
    assert [ending.stops for ending in ends.expirations] == [0]
    assert works(old, NOW + timedelta(hours=1))
    ends = calendar.of_keys(ApiKey.objects.all(), now=NOW + timedelta(hours=2))
    assert [ending.stops for ending in ends.expirations] == [1]


def test_a_wrong_secret_behind_an_old_prefix_is_refused(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    body = f"{old[:17]}{new[17:-6]}"
    assert not works(body + api_keys._checksum(body))


def test_an_overlap_has_its_bounds(bob: User) -> None:
    key, _ = issue(bob)
    for overlap in (timedelta(seconds=-1), 31 * DAY):
        with pytest.raises(InvalidInput):
            rotate(key, bob, overlap=overlap)


def test_only_the_owner_rotates(alice: User, bob: User) -> None:
    key, _ = issue(bob)
    with pytest.raises(NotAllowed):
        rotate(key, alice)


@pytest.mark.django_db(transaction=True)
def test_of_two_who_rotate_at_once_one_is_told(bob: User) -> None:
    key, _ = issue(bob)
    stale = [ApiKey.objects.get(pk=key.pk) for _ in range(4)]
    start, told = threading.Barrier(4), list[str]()

    def go(mine: ApiKey) -> None:
        start.wait(10)
        try:
            told.append(api_keys.rotate(mine, overlap=DAY, expires_at=NOW + 9 * DAY, actor=bob, now=NOW)[1])
        except InUse:
            told.append("")
        finally:
            databases.close_all()

    threads = [threading.Thread(target=go, args=[one]) for one in stale]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (text,) = [one for one in told if one]
    assert len(told) == 4
    assert works(text)


# --- Warnings -------------------------------------------------------------------------------------


def warned() -> list[tuple[str, str]]:
    return [(delivery.email, delivery.subject) for delivery in Delivery.objects.filter(event="message").order_by("pk")]


def test_an_owner_is_warned_once_for_each_threshold(bob: User) -> None:
    issue(bob, expires_at=NOW + 20 * DAY)
    for days, expected in ((20, 0), (13.9, 1), (13.5, 1), (8, 1), (6.5, 2), (0.9, 3), (0.5, 3), (-1, 3)):
        api_key_expiry.warn_due(now=NOW + 20 * DAY - days * DAY)
        assert len(warned()) == expected, days
    assert warned()[0] == ("bob@example.org", "API key Robot ends within 14 days")
    assert warned()[-1][1] == "API key Robot ends within a day"


def test_a_rotated_key_is_warned_of_anew_when_its_new_end_comes_near(bob: User) -> None:
    key, _ = issue(bob, expires_at=NOW + 5 * DAY)
    api_key_expiry.warn_due(now=NOW)
    rotate(key, bob, expires_at=NOW + 100 * DAY)
    api_key_expiry.warn_due(now=NOW + DAY)
    assert len(warned()) == 1
    api_key_expiry.warn_due(now=NOW + 95 * DAY)
    assert len(warned()) == 2


def test_nobody_is_warned_of_keys_that_are_worth_nothing(bob: User) -> None:
    key, _ = issue(bob, expires_at=NOW + 5 * DAY)
    api_keys.revoke(key, actor=bob, now=NOW)
    issue(bob, name="Other", expires_at=NOW + 5 * DAY)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert api_key_expiry.warn_due(now=NOW) == 0


def test_of_a_service_account_the_responsible_person_is_warned_or_else_the_it_admins(alice: User, bob: User) -> None:
    account = factories.make_service_account(responsible=bob)
    issue(account, expires_at=NOW + 5 * DAY, actor=alice)
    api_key_expiry.warn_due(now=NOW)
    assert [email for email, _ in warned()] == ["bob@example.org"]
    accounts.disable_person(bob, actor=alice, now=NOW)
    api_key_expiry.warn_due(now=NOW + 4.5 * DAY)
    assert [email for email, _ in warned()] == ["bob@example.org", "alice@example.org"]


def test_the_routine_warns(bob: User) -> None:
    issue(bob, expires_at=NOW + 5 * DAY)
    assert credential_expiry.check_due(now=NOW) == 1
    assert credential_expiry.check_due(now=NOW) == 0


@pytest.mark.parametrize("spoil", ["unknown", "wrong", "revoked", "expired", "old secret is over"])
def test_every_bad_key_costs_the_same_look_and_one_comparison(
    bob: User, spoil: str, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the time an answer takes does not tell which of them it was."""
    key, text = issue(bob)
    if spoil == "unknown":
        text = api_keys.generate_key()[0]
    elif spoil == "wrong":
        body = text[:-7] + ("A" if text[-7] != "A" else "B")
        text = body + api_keys._checksum(body)
    elif spoil == "revoked":
        api_keys.revoke(key, actor=bob, now=NOW)
    elif spoil == "expired":
        ApiKey.objects.update(expires_at=NOW)
    else:
        rotate(key, bob, now=NOW - 2 * DAY)
    compared: list[tuple[int, int]] = []
    compare = api_keys.hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(api_keys.hmac, "compare_digest", counting)
    with django_assert_num_queries(1):
        assert not works(text)
    assert compared == [(64, 64)]
