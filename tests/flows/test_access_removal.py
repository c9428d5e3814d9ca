"""Removed access ends at once, even for an automation that keeps polling.

A thread polls a real web server with una's API key while her access is removed on a page. The start, end and status of
every call are recorded.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import ApiKey, Connection, Share, Team, User
from connections.services.api_keys import api_keys
from connections.services.people import accounts, ownership_transfer
from connections.services.sharing import shares, teams
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

SignIn = Callable[[User], Client]
ENOUGH = 12  # responses required before and after the removal
PATIENCE = 60.0  # timeout in seconds


@dataclass(frozen=True)
class Call:
    """One call for a token; times are in seconds of the monotonic clock."""

    began: float
    ended: float
    status: int


class Poller:
    """An automation that keeps fetching a token until stopped."""

    def __init__(self, url: str, key: str, connection: Connection) -> None:
        self._host = urlsplit(url).netloc
        self._path = f"/api/v1/connections/{connection.pk}/token"
        self._key = key
        self._calls: list[Call] = []
        self._changed = threading.Condition()
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        client = http.client.HTTPConnection(self._host, timeout=30)
        while not self._stop:
            began = time.monotonic()
            client.request("GET", self._path, headers={"Authorization": f"Bearer {self._key}"})
            answer = client.getresponse()
            answer.read()
            with self._changed:
                self._calls.append(Call(began, time.monotonic(), answer.status))
                self._changed.notify_all()
        client.close()

    def calls(self) -> list[Call]:
        with self._changed:
            return list(self._calls)

    def wait_for(self, what: Callable[[list[Call]], bool]) -> list[Call]:
        with self._changed:
            assert self._changed.wait_for(lambda: what(self._calls), timeout=PATIENCE), self._calls[-3:]
            return list(self._calls)

    def stop(self) -> None:
        self._stop = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def shared(bob: User) -> Connection:
    """Bob's connection, with a token that is valid for an hour."""
    return factories.make_connection(owner=bob, expires_at=timezone.now() + timedelta(hours=1))


@pytest.fixture
def poll(portal_url: str, una: User) -> Iterator[Callable[[Connection], Poller]]:
    """Call ``poll(connection)`` to let una's automation start fetching its tokens."""
    started: list[Poller] = []

    def start(connection: Connection) -> Poller:
        scopes = ["token:read", "connections:read"]
        name, now = f"Robot {len(started)}", timezone.now()
        ends = now + timedelta(days=1)
        _, text = api_keys.issue(una, name=name, scopes=scopes, expires_at=ends, actor=una, now=now)
        started.append(Poller(portal_url, text, connection))
        return started[-1]

    yield start
    for thread in started:
        thread.stop()


def count_around(poller: Poller, take_away: Callable[[], object], *, since: float = 0.0) -> tuple[list[int], list[int]]:
    """Return the statuses of calls that ended before ``take_away``, and of calls that began after it."""
    poller.wait_for(lambda calls: sum(1 for call in calls if call.began >= since) >= ENOUGH)
    starts = time.monotonic()
    take_away()
    done = time.monotonic()
    calls = poller.wait_for(lambda calls: sum(1 for call in calls if call.began > done) >= ENOUGH)
    before = [call.status for call in calls if call.began >= since and call.ended < starts]
    after = [call.status for call in calls if call.began > done]
    assert min(len(before), len(after)) >= ENOUGH
    return before, after


def assert_cut_off(poller: Poller, take_away: Callable[[], object], status: int = 404, since: float = 0.0) -> None:
    before, after = count_around(poller, take_away, since=since)
    assert (set(before), set(after)) == ({200}, {status})


def give(connection: Connection, **terms: Any) -> Share:
    values = {"level": "use", "until": None, "actor": connection.owner, "now": timezone.now()}
    return shares.share(connection, **(values | terms))


def test_unsharing_while_an_automation_polls_refuses_the_next_call(
    shared: Connection, una: User, bob: User, signed_in: SignIn, poll: Callable[[Connection], Poller]
) -> None:
    browser = signed_in(bob)
    share = give(shared, person=una)
    poller, since = poll(shared), 0.0
    for _ in range(5):
        path = f"/connections/{shared.pk}/shares/{share.pk}/end/"
        assert_cut_off(poller, partial(_post, browser, path), since=since)
        share = give(shared, person=una)
        since = time.monotonic()


@pytest.mark.parametrize("way", ["members/{una}/remove/", "remove/"])
def test_losing_the_team_while_an_automation_polls_refuses_the_next_call(
    shared: Connection, una: User, alice: User, signed_in: SignIn, poll: Callable[[Connection], Poller], way: str
) -> None:
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, una, actor=alice)
    give(shared, team=team)
    poller, browser = poll(shared), signed_in(alice)
    assert_cut_off(poller, lambda: _post(browser, f"/teams/{team.pk}/{way.format(una=una.pk)}"))
    assert Team.objects.exists() == (way != "remove/")


def test_a_shares_end_passing_while_an_automation_polls_refuses_the_next_call(
    shared: Connection, una: User, poll: Callable[[Connection], Poller]
) -> None:
    """Nobody removes the share and no task runs; the date alone ends it."""
    give(shared, person=una, until=timezone.now() + timedelta(hours=1))
    poller = poll(shared)
    poller.wait_for(lambda calls: len(calls) >= ENOUGH)
    ends = time.monotonic() + 1
    Share.objects.update(until=timezone.now() + timedelta(seconds=ends - time.monotonic()))
    # The two clocks are read one after the other, so calls between the readings are ignored.
    apart = 0.05
    calls = poller.wait_for(lambda calls: sum(1 for call in calls if call.began > ends + apart) >= ENOUGH)
    before = [call.status for call in calls if call.ended < ends - apart]
    after = [call.status for call in calls if call.began > ends + apart]
    assert min(len(before), len(after)) >= ENOUGH
    assert (set(before), set(after)) == ({200}, {404})
    assert Share.objects.get().ended_at is None


@pytest.mark.parametrize("way", ["the key is revoked", "the account is disabled"])
def test_an_automation_without_a_valid_key_is_refused_at_its_next_call(
    shared: Connection, una: User, alice: User, signed_in: SignIn, poll: Callable[[Connection], Poller], way: str
) -> None:
    give(shared, person=una)
    poller = poll(shared)
    if way == "the key is revoked":
        browser, key = signed_in(una), ApiKey.objects.get()
        assert_cut_off(poller, lambda: _post(browser, f"/api-keys/{key.pk}/revoke/"), 401)
    else:
        assert_cut_off(poller, lambda: accounts.disable_person(una, actor=alice, now=timezone.now()), 401)


def test_a_transferred_connection_refuses_its_former_owners_automation(
    shared: Connection, una: User, bob: User, dave: User, poll: Callable[[Connection], Poller]
) -> None:
    ownership_transfer.transfer(shared, una, keep_grant=True, actor=bob, now=timezone.now())
    shared.refresh_from_db()
    poller = poll(shared)
    assert_cut_off(
        poller, lambda: ownership_transfer.transfer(shared, dave, keep_grant=True, actor=una, now=timezone.now())
    )


def _post(browser: Client, path: str) -> None:
    assert browser.post(path).status_code == 302, path
