"""API keys: scopes, expiry, rotation without downtime, and warnings."""

import hmac
import re
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import InUse, InvalidApiKey, InvalidInput, NotAllowed
from connections.models import ApiKey, AuditEvent, Delivery, User
from connections.services.api_keys import api_keys
from connections.services.expiry import api_key_expiry, calendar, credential_expiry
from connections.services.people import accounts
from tests import factories
from tests.api.api_client import at_once

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


def test_scopes_need_a_role_of_the_owner(alice: User, bob: User, carol: User) -> None:
    for owner, scope in (
        (bob, "connections:write"), (carol, "audit:read"), (alice, "admin:write"), (alice, "audit:read")
    ):  # fmt: skip
        assert issue(owner, name=scope, scopes=[scope])[0].scopes == [scope]
    for owner, scope in ((bob, "admin:read"), (bob, "audit:read"), (carol, "admin:write"), (alice, "no:such")):
        with pytest.raises(InvalidInput) as refused:
            issue(owner, name=scope, scopes=[scope])
        assert refused.value.field == "scopes"


def test_a_key_must_expire_within_the_configured_days(bob: User, settings: Any) -> None:
    settings.API_KEY_MAX_DAYS = 10
    for end in (None, NOW, NOW - DAY, NOW + 12 * DAY):
        with pytest.raises(InvalidInput) as refused:
            issue(bob, expires_at=end)
        assert refused.value.field == "expires_at"
    assert issue(bob, expires_at=NOW + 10 * DAY)[0].is_valid(NOW)
    settings.API_KEY_MAX_DAYS = 0
    assert issue(bob, name="For ever", expires_at=None)[0].is_valid(NOW + 9999 * DAY)


def test_only_the_owner_can_issue_and_rotate(alice: User, bob: User) -> None:
    with pytest.raises(NotAllowed):
        issue(bob, actor=alice)
    with pytest.raises(NotAllowed):
        rotate(issue(bob)[0], alice)


def test_both_secrets_work_until_the_overlap_ends(bob: User) -> None:
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


def test_the_next_rotation_revokes_the_secret_before(bob: User) -> None:
    key, first = issue(bob)
    assert re.fullmatch(r"m365p_[A-Za-z0-9]{10}_[A-Za-z0-9]{38}", first), "as documented for secret scanners"
    second = rotate(key, bob)
    third = rotate(key, bob)
    assert (works(first), works(second), works(third)) == (False, True, True)
    fourth = rotate(key, bob, overlap=timedelta())
    assert (works(third), works(fourth)) == (False, True), "without an overlap the old one stops at once"
    ApiKey.objects.update(expires_at=NOW - DAY)
    fifth = rotate(key, bob)
    assert (works(fourth), works(fifth)) == (False, True), "an expired secret is not revived"


def test_the_old_secret_can_be_revoked_early(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    for _ in range(2):
        api_keys.revoke_previous(ApiKey.objects.get(pk=key.pk), actor=bob, now=NOW)
    assert (works(old), works(new)) == (False, True)
    assert AuditEvent.objects.filter(action="api_key.old_secret_ended").count() == 1


def test_revoking_a_key_revokes_both_secrets(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    api_keys.revoke(key, actor=bob, now=NOW)
    assert (works(old), works(new)) == (False, False)
    with pytest.raises(InvalidInput):
        rotate(key, bob)


def test_an_overlap_is_limited_and_ends_with_the_key(bob: User) -> None:
    key, old = issue(bob)
    for overlap in (timedelta(seconds=-1), 31 * DAY):
        with pytest.raises(InvalidInput):
            rotate(key, bob, overlap=overlap)
    rotate(key, bob, overlap=7 * DAY, expires_at=NOW + 2 * DAY)
    assert works(old, NOW + DAY)
    assert not works(old, NOW + 3 * DAY)


def test_the_use_of_each_secret_is_recorded_separately(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    works(old, NOW + timedelta(hours=1))
    key.refresh_from_db()
    assert (key.previous_used_at, key.last_used_at) == (NOW + timedelta(hours=1), None)
    works(new, NOW + timedelta(hours=2))
    key.refresh_from_db()
    assert (key.previous_used_at, key.last_used_at) == (NOW + timedelta(hours=1), NOW + timedelta(hours=2))


def test_a_key_whose_old_secret_is_used_is_in_use(bob: User) -> None:
    key, old = issue(bob, expires_at=NOW + 9 * DAY)
    rotate(key, bob, expires_at=NOW + 9 * DAY)
    ends = calendar.of_keys(ApiKey.objects.all(), now=NOW)
    assert [ending.stops for ending in ends.expirations] == [0]
    assert works(old, NOW + timedelta(hours=1))
    ends = calendar.of_keys(ApiKey.objects.all(), now=NOW + timedelta(hours=2))
    assert [ending.stops for ending in ends.expirations] == [1]


def test_a_wrong_secret_with_the_old_prefix_is_refused(bob: User) -> None:
    key, old = issue(bob)
    new = rotate(key, bob)
    body = f"{old[:17]}{new[17:-6]}"
    assert not works(body + api_keys._checksum(body))


@pytest.mark.django_db(transaction=True)
def test_only_one_of_concurrent_rotations_succeeds(bob: User) -> None:
    key, _ = issue(bob)
    stale = [ApiKey.objects.get(pk=key.pk) for _ in range(4)]

    def rotate_stale(copy: ApiKey) -> str:
        try:
            return api_keys.rotate(copy, overlap=DAY, expires_at=NOW + 9 * DAY, actor=bob, now=NOW)[1]
        except InUse:
            return ""

    results = at_once(*[partial(rotate_stale, copy) for copy in stale])
    (text,) = [result for result in results if result]
    assert works(text)


def warned() -> list[tuple[str, str]]:
    return [(delivery.email, delivery.subject) for delivery in Delivery.objects.filter(event="message").order_by("pk")]


def test_an_owner_is_warned_once_for_each_threshold(bob: User) -> None:
    issue(bob, expires_at=NOW + 20 * DAY)
    for days, expected in ((20, 0), (13.9, 1), (13.5, 1), (8, 1), (6.5, 2), (0.9, 3), (0.5, 3), (-1, 3)):
        api_key_expiry.warn_due(now=NOW + 20 * DAY - days * DAY)
        assert len(warned()) == expected, days
    assert warned()[0] == ("bob@example.org", "API key Robot expires within 14 days")
    assert warned()[-1][1] == "API key Robot expires within 1 day"


def test_a_rotated_key_is_warned_of_again_before_its_new_expiry(bob: User) -> None:
    key, _ = issue(bob, expires_at=NOW + 5 * DAY)
    api_key_expiry.warn_due(now=NOW)
    rotate(key, bob, expires_at=NOW + 100 * DAY)
    api_key_expiry.warn_due(now=NOW + DAY)
    assert len(warned()) == 1
    api_key_expiry.warn_due(now=NOW + 95 * DAY)
    assert len(warned()) == 2


def test_no_warnings_for_revoked_keys_or_disabled_owners(bob: User) -> None:
    key, _ = issue(bob, expires_at=NOW + 5 * DAY)
    api_keys.revoke(key, actor=bob, now=NOW)
    issue(bob, name="Other", expires_at=NOW + 5 * DAY)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert api_key_expiry.warn_due(now=NOW) == 0


def test_the_responsible_person_or_the_it_admins_are_warned_of_service_account_keys(alice: User, bob: User) -> None:
    issue(factories.make_service_account(responsible=bob), expires_at=NOW + 5 * DAY, actor=alice)
    api_key_expiry.warn_due(now=NOW)
    assert [email for email, _ in warned()] == ["bob@example.org"]
    accounts.disable_person(bob, actor=alice, now=NOW)
    api_key_expiry.warn_due(now=NOW + 4.5 * DAY)
    assert [email for email, _ in warned()] == ["bob@example.org", "alice@example.org"]


def test_the_expiry_task_warns(bob: User) -> None:
    issue(bob, expires_at=NOW + 5 * DAY)
    assert credential_expiry.check_due(now=NOW) == 1
    assert credential_expiry.check_due(now=NOW) == 0


@pytest.mark.parametrize("spoil", ["unknown", "wrong", "revoked", "expired", "old secret is over"])
def test_every_invalid_key_costs_one_query_and_one_comparison(
    bob: User, spoil: str, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This way the response time does not reveal why a key is invalid."""
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
    compare = hmac.compare_digest

    def counting(known: str, sent: str) -> bool:
        compared.append((len(known), len(sent)))
        return compare(known, sent)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    with django_assert_num_queries(1):
        assert not works(text)
    assert compared == [(64, 64)]
