"""Rate limits, size limits, and problems instead of error pages."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from connections import counters
from connections.models import ApiKey, User
from connections.services.api_keys import api_keys, rate_limit
from connections.services.tokens import fetch, refresh_locks
from tests import factories
from tests.api.api_client import at_once
from tests.asgi_client import PortalClient

NOW = timezone.now()


@pytest.fixture(autouse=True)
def fresh_counters() -> Iterator[None]:
    rate_limit._leases.begin(-1)  # -1 is not a real window
    client = rate_limit.client()
    for key in client.scan_iter("*:rate:*"):
        client.delete(key)
    # Calls are counted per clock minute, which must not end in the middle of a test.
    with time_machine.travel(timezone.now().replace(second=1), tick=True):
        yield
    rate_limit.outage._until = 0.0


def client_of(owner: User, **key: Any) -> Client:
    return client_with(factories.make_key(owner, **key)[1])


def client_with(text: str) -> Client:
    return PortalClient(headers={"Authorization": f"Bearer {text}"}, raise_request_exception=False)


def problem(answer: Any) -> dict[str, Any]:
    assert answer["Content-Type"] == "application/problem+json", answer.content[:200]
    body: dict[str, Any] = answer.json()
    assert body["status"] == answer.status_code
    assert body["title"]
    return body


def test_rate_limit_headers_count_down_until_a_key_is_refused(bob: User, settings: Any) -> None:
    settings.API_RATE_LIMIT = 3
    client = client_of(bob)
    answers = [client.get("/api/v1/connections") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer["RateLimit-Limit"] for answer in answers} == {"3"}
    assert all(0 < int(answer["RateLimit-Reset"]) <= 60 for answer in answers)
    assert problem(answers[-1])["code"] == "rate_limited"
    assert answers[-1]["Retry-After"] == answers[-1]["RateLimit-Reset"]


def test_each_key_has_its_own_limit(bob: User, settings: Any) -> None:
    settings.API_RATE_LIMIT = 1
    limited, other = client_of(bob), client_of(bob, name="Other")
    assert [limited.get("/api/v1/connections").status_code for _ in range(2)] == [200, 429]
    assert other.get("/api/v1/connections").status_code == 200


def test_a_key_may_have_a_limit_set_by_an_it_admin(bob: User, settings: Any) -> None:
    settings.API_RATE_LIMIT = 1
    client = client_of(bob, rate_limit=2)
    assert [client.get("/api/v1/connections").status_code for _ in range(3)] == [200, 200, 429]
    free = client_of(bob, name="Free", rate_limit=0)
    assert [free.get("/api/v1/connections").status_code for _ in range(3)] == [200] * 3


def test_the_next_minute_starts_anew() -> None:
    for _ in range(3):
        last = rate_limit.count("somebody", limit=2, now=NOW)
    assert last is not None
    assert last.is_exceeded
    again = rate_limit.count("somebody", limit=2, now=NOW + timedelta(seconds=last.reset))
    assert again is not None
    assert (again.count, again.is_exceeded) == (1, False)


def test_calls_at_the_same_moment_are_all_counted() -> None:
    def many() -> None:
        for _ in range(50):
            rate_limit.count("crowd", limit=1000, now=NOW)

    at_once(*[many] * 8)
    last = rate_limit.count("crowd", limit=1000, now=NOW)
    assert last is not None
    assert last.count == 401


def test_calls_that_are_counted_together_cost_no_more_than_one_by_one() -> None:
    states = [state for _ in range(300) for state in rate_limit.count_many([("pair", 600)] * 2, now=NOW)]
    assert sorted(state.count for state in states if state is not None) == list(range(1, 601))


def test_without_the_cache_the_api_works_unlimited_and_counts_what_it_lets_through(
    bob: User, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    settings.API_RATE_LIMIT = 1
    nowhere = redis.Redis(host="127.0.0.1", port=1, socket_timeout=0.2, socket_connect_timeout=0.2)
    monkeypatch.setattr(rate_limit, "client", lambda: nowhere)
    counters.take()
    client = client_of(bob)
    answers = [client.get("/api/v1/connections") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert "RateLimit-Limit" not in answers[0]
    assert counters.take()[rate_limit.NOT_LIMITED,] == 4
    rate_limit.count_many([("pair", 1)] * 2, now=NOW)
    assert counters.take()[rate_limit.NOT_LIMITED,] == 2
    assert len([record for record in caplog.records if "cache cannot be reached" in record.message]) == 1


def test_a_hanging_cache_does_not_hold_up_a_refresh(settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"redis://127.0.0.1:{hanging.getsockname()[1]}/0"
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": address}}
        start = time.monotonic()
        mark = refresh_locks.acquire("refresh:1")
        assert mark is not None, "without turns"
        refresh_locks.release("refresh:1", mark)
        assert refresh_locks.is_done(["refresh:1"]) == {"refresh:1"}
        assert time.monotonic() - start < 5


def test_a_slow_holder_does_not_release_the_lock_of_the_next_one() -> None:
    slow = refresh_locks.acquire("refresh:1")
    assert slow is not None
    cache.delete("refresh:1")  # as if it had expired
    quick = refresh_locks.acquire("refresh:1")
    assert quick is not None
    refresh_locks.release("refresh:1", slow)
    assert refresh_locks.acquire("refresh:1") is None, "the turn of the second one was given back by the first"
    refresh_locks.release("refresh:1", quick)
    assert refresh_locks.is_done(["refresh:1"]) == {"refresh:1"}


def test_bad_keys_are_rate_limited_by_address_and_valid_ones_are_not(bob: User, settings: Any) -> None:
    settings.API_BAD_KEY_LIMIT = 3
    wrong = [client_with(api_keys.generate_key()[0]).get("/api/v1/connections") for _ in range(5)]
    assert [answer.status_code for answer in wrong] == [401, 401, 401, 429, 429]
    assert problem(wrong[-1])["code"] == "rate_limited"
    assert int(wrong[-1]["Retry-After"]) > 0
    assert client_of(bob).get("/api/v1/connections").status_code == 200
    elsewhere = client_with(api_keys.generate_key()[0]).get("/api/v1/connections", REMOTE_ADDR="10.0.0.9")
    assert elsewhere.status_code == 401


def test_a_large_body_is_refused_before_it_is_read(bob: User) -> None:
    client = client_of(bob)
    answer = client.post("/api/v1/connections", b"x" * (256 * 1024 + 1), content_type="application/json")
    assert problem(answer)["code"] == "too_large"
    assert answer.status_code == 413
    fits = client.post("/api/v1/connections", b"x" * 256 * 1024, content_type="application/json")
    assert fits.status_code != 413


@pytest.mark.parametrize("length", ["-1", "9" * 30, "1e9", "abc"])
def test_an_absurd_content_length_is_refused(bob: User, length: str) -> None:
    answer = client_of(bob).get("/api/v1/connections", CONTENT_LENGTH=length)
    assert (answer.status_code, problem(answer)["code"]) == (413, "too_large")


def test_a_body_without_a_length_is_refused(bob: User) -> None:
    answer = client_of(bob).get("/api/v1/connections", HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH="")
    assert (answer.status_code, problem(answer)["code"]) == (411, "length_required")


def test_a_long_query_is_refused(bob: User) -> None:
    answer = client_of(bob).get("/api/v1/connections", {"name": "x" * 5000})
    assert (answer.status_code, problem(answer)["code"]) == (414, "address_too_long")


def test_a_missing_key_is_a_problem_everywhere(client: Client) -> None:
    for path in ("connections", "connections/1", "connections/1/token"):
        assert problem(client.get(f"/api/v1/{path}"))["code"] == "bad_key"


def test_an_internal_error_reveals_no_details(bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the password is open sesame")

    monkeypatch.setattr(fetch, "choose", fail)
    connection = factories.make_connection(owner=bob)
    answer = client_of(bob).get(f"/api/v1/connections/{connection.pk}/token")
    body = problem(answer)
    assert (answer.status_code, body["code"]) == (500, "internal_error")
    assert "sesame" not in answer.content.decode()
    assert "Traceback" not in answer.content.decode()
    assert answer["X-Request-ID"] in body["action"]


def test_pages_are_left_alone(signed_in: Callable[[User], Client], bob: User) -> None:
    answer = signed_in(bob).get("/nothing/here/")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


def test_the_limit_of_a_key_is_its_own_or_the_default(settings: Any) -> None:
    settings.API_RATE_LIMIT = 600
    assert api_keys.rate_limit_of(ApiKey()) == 600
    assert api_keys.rate_limit_of(ApiKey(rate_limit=5)) == 5
