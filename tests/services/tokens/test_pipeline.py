"""Batches that follow each other without a pause: what is claimed, sent, stored, given back and kept in memory."""

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext

from connections.microsoft import clouds, http, token_endpoint
from connections.models import AppRegistration, Connection, Incident
from connections.services.tokens import apply_results, batch, batch_client, refresh_locks, scheduler, store
from connections.services.tokens.batch_results import DueConnection, RefreshBatchResult
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.tokens.test_refresh_faults import dead, granted
from tests.services.tokens.test_scheduler import NOW, read, token_calls


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """``slots(4)`` lets the tests' clients send 4 requests at the same time."""

    def use(count: int) -> None:
        monkeypatch.setattr(http, "_idle_clients", [http.Client(timeout=15, in_flight=count)])

    return use


def claims_of(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each claim adds how many connections were stored with new tokens by then."""
    stored: list[int] = []
    claim = scheduler.claim

    def spy(**options: Any) -> list[DueConnection]:
        stored.append(Connection.objects.filter(token_version=2).count())
        return claim(**options)

    monkeypatch.setattr(scheduler, "claim", spy)
    return stored


def test_the_next_batch_is_claimed_before_the_last_one_is_stored(
    sandbox: Control, slots: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(sandbox, 12)
    slots(4)
    stored = claims_of(sandbox, monkeypatch)
    assert scheduler.sweep(now=NOW, limit=6).renewed == 12
    assert stored[:2] == [0, 0]
    assert set(Connection.objects.values_list("token_version", flat=True)) == {2}


def test_each_batch_has_a_lease_from_its_own_start(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(sandbox, 4)
    moment, claim = NOW, scheduler.claim
    leases: list[Any] = []

    def slow(**options: Any) -> list[DueConnection]:
        nonlocal moment
        claimed = claim(**options)
        leases.extend(read(Connection(pk=due.pk)).refresh_after - moment for due in claimed)
        moment += timedelta(minutes=1)
        return claimed

    monkeypatch.setattr(scheduler, "claim", slow)
    scheduler.sweep(now=NOW, limit=2, clock=lambda: moment)
    assert leases == [scheduler.LEASE] * 4


def test_nothing_is_claimed_while_a_canary_is_unanswered(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(sandbox, 6)
    calls: list[int] = []
    claim = scheduler.claim

    def spy(**options: Any) -> list[DueConnection]:
        calls.append(token_calls(sandbox))
        return claim(**options)

    monkeypatch.setattr(scheduler, "claim", spy)
    scheduler.sweep(now=NOW, limit=2)
    assert all(made >= number for number, made in enumerate(calls)), "each batch's canary is answered before"


def test_499_good_answers_take_a_small_constant_number_of_statements(sandbox: Control) -> None:
    def statements() -> list[str]:
        Connection.objects.update(refresh_after=NOW - timedelta(minutes=1))
        with CaptureQueriesContext(database) as queries:
            scheduler.sweep(now=NOW)
        return [query["sql"] for query in queries if not query["sql"].startswith(("SAVEPOINT", "RELEASE"))]

    granted(sandbox, 5)
    few = statements()
    granted(sandbox, 494, name="More")
    many = statements()
    # Rejected apps (2), claim, app registrations, credentials (2), and for each 200 answers: outages, and on SQLite the
    # store (psycopg's own cursor is not counted on PostgreSQL).
    assert len(few) <= 9
    assert len(many) <= len(few) + 3 * -(-499 // batch_client.MOST_HELD)
    assert set(Connection.objects.values_list("token_version", flat=True)) == {2, 3}


def test_a_token_resolves_what_is_left_of_incidents_and_flags(sandbox: Control) -> None:
    flagged, well = granted(sandbox, 2)
    apply_results.flag(flagged.pk, dead(), now=NOW, version=1)
    due = scheduler.claim_one(flagged.pk, now=NOW) + scheduler.claim_one(well.pk, now=NOW)
    results = batch_client.request_tokens(due)
    apply_results.apply(results, now=NOW)
    assert read(flagged).status == "active"
    assert not Incident.objects.filter(closed_at=None).exists()


def test_only_unchanged_versions_are_stored_and_reported(sandbox: Control) -> None:
    first, second = granted(sandbox, 2)
    Connection.objects.filter(pk=second.pk).update(token_version=7, status="blocked")
    tokens = token_endpoint.TokenSet("access", 3600, ("Mail.Read",), "1.new")
    renewed = [
        store.RenewedToken(connection.pk, connection.identity, 1, tokens, "1.old") for connection in (first, second)
    ]
    written = store.store_renewed(renewed, now=NOW)
    assert written == {first.pk: store.Stored(first.pk, is_flagged=False, is_in_incident=False, has_request=False)}
    assert (read(first).refresh_token, read(first).previous_refresh_token) == ("1.new", "1.old")
    assert read(second).token_version == 7


def test_a_rejected_app_in_the_middle_of_a_batch_stops_the_rest(
    sandbox: Control, slots: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret is removed while the first requests are in flight: those that wait are not sent."""
    connections = granted(sandbox, 30)
    slots(2)
    receive = batch.Batch.receive
    answered = 0

    def spy(self: batch.Batch, response: Any) -> Any:
        nonlocal answered
        answered += 1
        if answered == 5:
            sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
        return receive(self, response)

    monkeypatch.setattr(batch.Batch, "receive", spy)
    sandbox.clear_calls()
    summary = scheduler.sweep(now=NOW)
    assert token_calls(sandbox) <= 9, "those in flight, and no more"
    assert summary.waiting >= 20
    assert AppRegistration.objects.get().rejected_at is not None
    assert {read(connection).status for connection in connections} == {"active"}


def test_throttling_in_the_middle_of_a_batch_stops_the_rest(
    sandbox: Control, slots: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    granted(sandbox, 30)
    slots(2)
    receive = batch.Batch.receive

    def spy(self: batch.Batch, response: Any) -> Any:
        sandbox.weather("throttle", where="token", retry_after="60")
        return receive(self, response)

    monkeypatch.setattr(batch.Batch, "receive", spy)
    sandbox.clear_calls()
    scheduler.sweep(now=NOW)
    assert token_calls(sandbox) <= 4
    assert not Connection.objects.filter(refresh_after__lte=NOW).exists()


def test_stopping_stores_every_answer_and_gives_the_rest_back(sandbox: Control, slots: Callable[[int], None]) -> None:
    granted(sandbox, 20)
    slots(3)
    sandbox.clear_calls()
    summary = scheduler.sweep(now=NOW, is_stopping=lambda: token_calls(sandbox) >= 6)
    calls = token_calls(sandbox)
    assert calls < 20
    assert summary.renewed == calls == Connection.objects.filter(token_version=2).count()
    unsent = Connection.objects.filter(token_version=1)
    assert unsent.count() == 20 - calls
    assert set(unsent.values_list("refresh_after", flat=True)) == {NOW}, "another worker can claim them at once"


def test_stopping_before_the_canary_is_answered_gives_everything_back(sandbox: Control) -> None:
    granted(sandbox, 3)
    looks = iter([False, False, True])
    summary = scheduler.sweep(now=NOW, is_stopping=lambda: next(looks, True))
    assert (summary.renewed, Connection.objects.filter(refresh_after=NOW).count()) == (1, 2)


@pytest.mark.parametrize("looks", [[True], [False, True]], ids=["before", "after the claim"])
def test_stopping_tries_no_rejected_app(sandbox: Control, looks: list[bool]) -> None:
    (connection,) = granted(sandbox, 1)
    AppRegistration.objects.update(rejected_at=NOW, canary_after=NOW)
    sandbox.clear_calls()
    answers = iter(looks)
    scheduler.retry_rejected_apps(now=NOW, is_stopping=lambda: next(answers, True))
    assert token_calls(sandbox) == 0
    assert read(connection).refresh_after <= NOW, "it is given back"


def test_what_could_not_be_sent_in_time_is_given_back(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(sandbox, 3)
    monkeypatch.setattr(batch, "SEND_WITHIN", -1.0)
    sandbox.clear_calls()
    results = batch_client.request_tokens(scheduler.claim(now=NOW, limit=10))
    apply_results.apply(results, now=NOW)
    assert token_calls(sandbox) == 0
    assert set(Connection.objects.values_list("refresh_after", flat=True)) == {NOW}


def test_a_lease_is_longer_than_sending_and_answering_take() -> None:
    assert scheduler.LEASE.total_seconds() >= batch.SEND_WITHIN + 60
    assert refresh_locks.RENEWED_FOR >= batch.SEND_WITHIN + 60, "its locks last as long"


_CHUNK = b"x" * 50_000


class _Huge(BaseHTTPRequestHandler):
    """Answers correctly with tokens of ``size`` characters, or never stops; ``pause`` seconds after each byte."""

    size, pause = 0, 0.0
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        parts = (
            '{"access_token":"',
            "e" * self.size,
            '","refresh_token":"1.new","expires_in":3600,"scope":"Mail.Read"}',
        )
        self.send_response(200)
        self.send_header("Content-Length", str(sum(map(len, parts)) if self.size else 500_000_000))
        self.end_headers()
        with suppress(OSError):  # the client hangs up
            while self.pause:
                self.wfile.write(b" ")
                time.sleep(self.pause)
            for part in parts:
                self.wfile.write(part.encode())
            for _ in range(0 if self.size else 10_000):
                self.wfile.write(_CHUNK)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def huge(sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    # Reading so much takes long on a busy machine, and a time-out is not what these tests are about.
    monkeypatch.setattr(http, "_idle_clients", [http.Client(timeout=120, in_flight=200)])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Huge)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    clouds.add_sandbox(url)
    yield url
    server.shutdown()
    thread.join()
    server.server_close()


def peak_of_sweep() -> tuple[int, apply_results.Summary]:
    """Return the most bytes that a sweep kept at a time."""
    tracemalloc.start()
    try:
        summary = scheduler.sweep(now=NOW)
        return tracemalloc.get_traced_memory()[1], summary
    finally:
        tracemalloc.stop()


def test_60_answers_of_500_mb_are_ended(huge: str, sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(sandbox, 60)
    monkeypatch.setattr(_Huge, "size", 200)
    peak_of_sweep()  # what Python and Django keep for themselves
    Connection.objects.update(refresh_after=NOW - timedelta(minutes=1))
    monkeypatch.setattr(batch, "_stops_others", lambda answer: False)  # so that the canary does not keep the others off
    monkeypatch.setattr(_Huge, "size", 0)
    monkeypatch.setattr(http, "MAX_RECEIVED", 4_000_000)  # 60 answers of 256 KiB would be 16 MB
    peak, summary = peak_of_sweep()
    assert (summary.claimed, summary.renewed) == (60, 0)
    assert peak < 8_000_000
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}


def test_an_answer_that_drips_is_ended(huge: str, sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, the last one never."""
    (connection,) = granted(sandbox, 1)
    monkeypatch.setattr(_Huge, "pause", 0.05)
    monkeypatch.setattr(http, "_idle_clients", [http.Client(timeout=0.5, in_flight=200)])
    summary = scheduler.sweep(now=NOW)
    assert (summary.claimed, summary.renewed) == (1, 0)
    assert (read(connection).status, read(connection).token_version) == ("active", 1)
    assert read(connection).trouble_code


def test_60_large_answers_are_stored_in_parts(huge: str, sandbox: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    granted(sandbox, 60)
    monkeypatch.setattr(_Huge, "size", 250_000)
    monkeypatch.setattr(batch_client, "MOST_HELD_BYTES", 1_000_000)
    sizes: list[int] = []
    apply = apply_results.apply

    def spy(results: list[RefreshBatchResult], **options: Any) -> apply_results.Summary:
        answers = [answer for result in results for _, answer in result.answers]
        sizes.append(sum(len(answer.access_token) for answer in answers if isinstance(answer, token_endpoint.TokenSet)))
        return apply(results, **options)

    monkeypatch.setattr(apply_results, "apply", spy)
    summary = scheduler.sweep(now=NOW)
    assert summary.renewed == 60 - summary.flagged - summary.waiting
    assert sum(sizes) == 60 * 250_000
    assert len(sizes) > 3
    assert Counter(Connection.objects.values_list("token_version", flat=True)) == {2: 60}


def test_bytes_in_flight_have_a_budget_for_all_answers(
    huge: str, monkeypatch: pytest.MonkeyPatch, slots: Callable[[int], None]
) -> None:
    monkeypatch.setattr(_Huge, "size", 200_000)
    monkeypatch.setattr(http, "MAX_RECEIVED", 300_000)
    client = http.Client(timeout=15, in_flight=20)
    requests: list[http.Request[int]] = [
        http.Request("POST", f"{huge}/token", b"x=1", tag=number, max_answer=262_144) for number in range(20)
    ]
    answers = list(client.send_all(requests))
    assert len(answers) == 20
    assert sum(answer.status == 200 for answer in answers) > 0
    assert {answer.status for answer in answers} <= {0, 200}
    assert client._received == 0
    client.close()
