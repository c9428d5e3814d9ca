"""Callers, the sweep and checks by hand never use one refresh token at the same time."""

import time
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.core.cache import cache
from django.utils import timezone

from connections.errors import TokenUnavailable
from connections.models import Connection, ResourceToken, User
from connections.services.api_keys import rate_limit
from connections.services.tokens import (
    apply_results,
    batch_client,
    refresh_locks,
    resource_tokens,
    scheduler,
    single_flight,
)
from connections.services.tokens.single_flight import TokenRequirement
from portal.sandbox.client import Control
from tests.services.tokens.test_refresh_faults import granted
from tests.services.tokens.test_scheduler import read, token_calls

pytestmark = pytest.mark.django_db
ANY = TokenRequirement(300)


@pytest.fixture
def now(db: None) -> Any:
    cache.clear()
    return timezone.now()


def expired(sandbox: Control, count: int = 1) -> list[Connection]:
    connections = granted(sandbox, count, expires_at=timezone.now() - timedelta(minutes=1))
    sandbox.clear_calls()
    return connections


def test_the_sweep_leaves_out_a_connection_whose_token_a_caller_is_renewing(sandbox: Control, now: Any) -> None:
    busy, other = expired(sandbox, 2)
    with refresh_locks.grant_lock(busy.pk, patience=0):
        scheduler.sweep(now=now)
    assert token_calls(sandbox) == 1
    assert (read(busy).token_version, read(other).token_version) == (1, 2)
    assert read(busy).refresh_after == now + scheduler.IN_USE_FOR
    scheduler.sweep(now=now + scheduler.IN_USE_FOR)
    assert read(busy).token_version == 2


def test_the_sweep_moves_nothing_that_the_caller_has_already_scheduled(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (busy,) = expired(sandbox)
    scheduled = now + timedelta(minutes=50)
    original = refresh_locks.GrantLocks.take

    def caller_is_faster(locks: Any, pks: Any) -> Any:
        Connection.objects.filter(pk=busy.pk).update(refresh_after=scheduled)
        return original(locks, pks)

    monkeypatch.setattr(refresh_locks.GrantLocks, "take", caller_is_faster)
    with refresh_locks.grant_lock(busy.pk, patience=0):
        scheduler.sweep(now=now)
    assert read(busy).refresh_after == scheduled


def test_the_sweep_holds_the_locks_while_it_asks_and_releases_them(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (connection,) = expired(sandbox)
    original, meanwhile = apply_results.apply, []

    def look(results: Any, **when: Any) -> Any:
        if results:
            meanwhile.append(refresh_locks.acquire(refresh_locks.grant_lock_name(connection.pk)))
        return original(results, **when)

    monkeypatch.setattr(apply_results, "apply", look)
    scheduler.sweep(now=now)
    assert meanwhile == [None], "stored while a caller could ask with the same refresh token"
    assert refresh_locks.is_done([refresh_locks.grant_lock_name(connection.pk)])


def test_a_caller_waits_for_the_sweep_and_asks_nothing_itself(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (connection,) = expired(sandbox)
    name = refresh_locks.grant_lock_name(connection.pk)
    mark = refresh_locks.acquire(name)
    assert mark is not None

    def sweep_ends(seconds: float) -> None:
        batch = scheduler.claim_one(connection.pk, now=now)
        apply_results.apply(batch_client.request_tokens(batch), now=now)
        refresh_locks.release(name, mark)

    monkeypatch.setattr(time, "sleep", sweep_ends)
    assert single_flight.refresh_in_turn(connection.pk, ANY)
    assert token_calls(sandbox) == 1
    assert read(connection).token_version == 2
    assert refresh_locks.is_done([name, refresh_locks.lock_name(connection.pk)]) == {
        name,
        refresh_locks.lock_name(connection.pk),
    }


@pytest.mark.parametrize("resource", ["", "exchange"])
def test_a_caller_that_waits_in_vain_does_not_ask(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    (connection,) = expired(sandbox)
    ResourceToken.objects.create(connection=connection, resource="exchange")
    monkeypatch.setattr(single_flight, "GRANT_PATIENCE", 0.0)
    with refresh_locks.grant_lock(connection.pk, patience=0):
        assert single_flight.refresh_in_turn(connection.pk, ANY, resource)
    assert token_calls(sandbox) == 0


def test_a_check_by_hand_waits_for_the_refresh_under_way(
    sandbox: Control, bob: User, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (connection,) = granted(sandbox, 1, owner=bob)
    sandbox.clear_calls()
    monkeypatch.setattr(scheduler, "CHECK_PATIENCE", 0.0)
    with refresh_locks.grant_lock(connection.pk, patience=0), pytest.raises(TokenUnavailable) as refused:
        scheduler.check_now(connection, actor=bob, now=now)
    assert refused.value.status == 503
    assert token_calls(sandbox) == 0
    scheduler.check_now(connection, actor=bob, now=now)
    assert token_calls(sandbox) == 1


def test_nobody_asks_again_for_a_connection_that_was_flagged_meanwhile(sandbox: Control, now: Any) -> None:
    (connection,) = expired(sandbox)
    Connection.objects.filter(pk=connection.pk).update(status="reconnect_needed")
    assert single_flight.refresh_in_turn(connection.pk, ANY)
    assert token_calls(sandbox) == 0


@pytest.mark.parametrize("weather", ["unavailable", "throttle"])
def test_the_time_of_instant_refusals_begins_when_the_question_failed(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch, weather: str
) -> None:
    (connection,) = expired(sandbox)
    sandbox.weather(weather, where="token", retry_after="missing")
    fourteen_later = timezone.now() + timedelta(seconds=15 + 14)
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10_000, 15)).__next__)  # it took 15 seconds
    single_flight.refresh_in_turn(connection.pk, ANY)
    monkeypatch.undo()
    assert single_flight.microsoft_just_failed(connection.pk, fourteen_later)
    assert not single_flight.microsoft_just_failed(connection.pk, fourteen_later + timedelta(minutes=2))


def test_a_new_token_lives_from_its_request_on(sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (connection,) = expired(sandbox)
    sandbox.token_lifetime(3600)
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10_000, 15)).__next__)
    single_flight.refresh_in_turn(connection.pk, ANY)
    monkeypatch.undo()
    assert read(connection).expires_at <= timezone.now() + timedelta(seconds=3600)


def test_a_failure_for_another_resource_is_as_old_as_its_answer(
    sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (connection,) = expired(sandbox)
    row = ResourceToken.objects.create(connection=connection, resource="exchange")
    sandbox.weather("unavailable", where="token")
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10_000, 15)).__next__)
    resource_tokens.refresh(connection.pk, "exchange", now=now)
    monkeypatch.undo()
    row.refresh_from_db()
    assert row.trouble_at is not None
    assert row.trouble_at >= now + timedelta(seconds=15)


def test_without_the_cache_everything_is_refreshed(sandbox: Control, now: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (connection,) = expired(sandbox)

    def gone() -> Any:
        raise redis.ConnectionError

    monkeypatch.setattr(rate_limit, "client", gone)
    scheduler.sweep(now=now)
    assert read(connection).token_version == 2


@pytest.mark.parametrize("value", ["nonsense", 7])
def test_what_never_expires_is_no_lock(sandbox: Control, now: Any, value: Any) -> None:
    (connection,) = expired(sandbox)
    cache.set(refresh_locks.grant_lock_name(connection.pk), value, timeout=None)
    scheduler.sweep(now=now)
    assert read(connection).token_version == 2


def test_a_batch_of_locks_costs_two_commands(now: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = rate_limit.client()
    sent: list[str] = []
    original = client.eval

    def count(script: str, *arguments: Any) -> Any:
        sent.append(script)
        return original(script, *arguments)

    monkeypatch.setattr(client, "eval", count)
    with refresh_locks.GrantLocks() as locks, refresh_locks.GrantLocks() as others:
        assert locks.take(range(1, 501)) == set(range(1, 501))
        assert others.take([500, 501]) == {501}
        locks.release([500, 501])
        assert others.take([500]) == {500}
        assert locks.take([]) == set()
        assert len(sent) == 4
    assert len(sent) == 6, "the end of a block releases what it still holds"
    with refresh_locks.GrantLocks() as locks:
        assert locks.take([1, 500, 501]) == {1, 500, 501}


# --- Locks outlive the longest refresh, but not their holder -----------------------------------------


def _milliseconds_left(key: str) -> int:
    return int(rate_limit.client().pttl(cache.make_key(key)))


@pytest.fixture
def renewal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What renews the locks, when the test says so."""
    monkeypatch.setattr(refresh_locks._Renewal, "_run", lambda self: None)
    monkeypatch.setattr(refresh_locks, "_renewal", refresh_locks._Renewal())
    return refresh_locks._renewal


def test_locks_are_renewed_while_they_are_held_and_expire_soon_after_a_kill(now: Any, renewal: Any) -> None:
    name = refresh_locks.grant_lock_name(1)
    with refresh_locks.GrantLocks() as locks:
        assert locks.take([1, 2]) == {1, 2}
        assert 0 < _milliseconds_left(name) <= refresh_locks.LOCK_SECONDS * 1000, "a killed worker renews nothing"
        rate_limit.client().pexpire(cache.make_key(name), 500)
        renewal.renew()
        assert _milliseconds_left(name) > 500
        locks.release([2])
        renewal.renew()
        assert refresh_locks.is_done([refresh_locks.grant_lock_name(2)]), "what is released stays free"
        cache.delete(name)  # Redis was restarted
        renewal.renew()
        assert not refresh_locks.is_done([name])
    renewal.renew()
    assert refresh_locks.is_done([name])


def test_a_lock_that_another_process_has_taken_is_not_renewed(now: Any, renewal: Any) -> None:
    mark = refresh_locks.acquire("refresh:1")
    assert mark is not None
    cache.set("refresh:1", mark + 1, timeout=5)
    renewal.renew()
    assert cache.get("refresh:1") == mark + 1
    assert _milliseconds_left("refresh:1") <= 5000


def test_a_holder_that_hangs_does_not_keep_its_lock_for_ever(
    now: Any, renewal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_locks, "RENEWED_FOR", 0.0)
    refresh_locks.acquire("refresh:1")
    rate_limit.client().pexpire(cache.make_key("refresh:1"), 500)
    renewal.renew()
    assert _milliseconds_left("refresh:1") <= 500
