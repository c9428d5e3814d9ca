"""The token endpoint itself, called at awkward moments."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.api import token_endpoint
from connections.api.token_endpoint import Batches, TokenEndpoint
from connections.api.token_waiting import Refreshes
from connections.services.tokens import fetch, refresh_locks
from connections.services.tokens.fetch import Token
from connections.services.tokens.single_flight import TokenRequirement
from connections.services.tokens.token_calls import Refused, TokenCall, Wait
from portal import asgi

TOKEN = Token("access token", timezone.now() + timedelta(hours=1), "Mail.Read")


def token_call() -> TokenCall:
    return TokenCall("key", 1, None, TokenRequirement(300), "127.0.0.1")


def test_a_call_that_comes_just_when_a_batch_ends_is_answered() -> None:
    calls: list[asyncio.Task[Any]] = []

    async def run(function: Any, batch: list[TokenCall]) -> list[Any]:
        if not calls:
            calls.append(asyncio.ensure_future(batches.answer(token_call())))
        return [TOKEN for _ in batch]

    batches = Batches(run)

    async def ask_twice() -> list[Any]:
        return [await batches.answer(token_call()), await asyncio.wait_for(calls[0], 1)]

    assert asyncio.run(ask_twice()) == [TOKEN, TOKEN]


def test_a_second_batch_runs_beside_the_first_only_if_it_is_worthwhile() -> None:
    sizes: list[int] = []

    async def ask_many() -> list[Any]:
        may_end = asyncio.Event()

        async def run(function: Any, batch: list[TokenCall]) -> list[Any]:
            sizes.append(len(batch))
            await may_end.wait()
            return [TOKEN for _ in batch]

        batches = Batches(run)
        answers = [asyncio.ensure_future(batches.answer(token_call()))]
        for number in (token_endpoint._WORTHWHILE - 1, 1, 20):
            await asyncio.sleep(0.01)
            answers += [asyncio.ensure_future(batches.answer(token_call())) for _ in range(number)]
        await asyncio.sleep(0.01)
        may_end.set()
        return await asyncio.wait_for(asyncio.gather(*answers), 5)

    assert asyncio.run(ask_many()) == [TOKEN] * (token_endpoint._WORTHWHILE + 21)
    assert sizes == [1, token_endpoint._WORTHWHILE, 20]


def test_a_token_that_comes_while_the_view_explains_its_absence_is_not_shared() -> None:
    """The view records only one token request, but every token that is sent must be recorded."""
    outcomes: list[Any] = [Wait(1, 1, 1.0)] * 3 + [None] * 3
    decided = 0

    async def run(function: Any, *arguments: Any) -> Any:
        nonlocal decided
        await asyncio.sleep(0)
        if function is not token_endpoint._answer_batch:
            return True
        batch = [outcomes.pop(0) if outcomes else TOKEN for _ in arguments[0]]
        decided += sum(outcome is TOKEN for outcome in batch)
        return batch

    seen = 0

    async def django(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        seen += 1
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    endpoint = TokenEndpoint(django, lambda is_secure: [], run_in_thread=run)
    scope = {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "path": "/api/v1/connections/1/token",
        "raw_path": b"/api/v1/connections/1/token",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer key")],
        "client": ("127.0.0.1", 1),
    }
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def three_at_once() -> None:
        await asyncio.gather(*(endpoint(dict(scope), None, send) for _ in range(3)))  # type: ignore[arg-type]

    asyncio.run(three_at_once())
    assert statuses == [200] * 3
    assert (seen, decided) == (1, 2)


@pytest.mark.parametrize(
    ("protocols", "is_secure"),
    [([b"http", b"https"], False), ([b"https", b"http"], True), ([b" https,http"], True), ([], False)],
)
def test_of_several_protocols_the_first_counts(settings: Any, protocols: list[bytes], is_secure: bool) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = [(b"x-forwarded-proto", protocol) for protocol in protocols]
    assert token_endpoint.is_secure({"scheme": "http", "headers": headers}) is is_secure


@pytest.mark.parametrize(
    ("client", "is_https"), [(None, True), (("127.0.0.1", 1), True), (("::1", 1), True), (("192.0.2.1", 1), False)]
)
def test_a_proxy_on_this_machine_says_that_it_was_called_by_https(client: Any, is_https: bool) -> None:
    scope = {"client": client, "headers": [(b"x-forwarded-proto", b"https")]}
    assert asgi._is_from_local_https_proxy(scope) is is_https


def test_waiting_goes_on_after_the_check_of_other_processes_has_failed_once() -> None:
    failures = [RuntimeError("the cache answered nonsense")]

    async def run(function: Any, *arguments: Any) -> Any:
        if function is not refresh_locks.is_done:
            return False  # another process is refreshing
        if failures:
            raise failures.pop()
        return set(arguments[0])

    async def wait_twice() -> list[bool]:
        refreshes = Refreshes(run)
        wait = Wait(connection_pk=1, app_pk=1, patience=1.0)
        return [await refreshes.wait(refreshes.begin(wait, TokenRequirement(300)), wait.patience) for _ in range(2)]

    assert asyncio.run(wait_twice()) == [True, True]


class View:
    """Stands in for Django: counts its requests and answers each with its status."""

    def __init__(self, status: int) -> None:
        self.status, self.requests = status, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def statuses(view: View, monkeypatch: pytest.MonkeyPatch, owners: list[int], *, must_wait: bool) -> list[int]:
    """Return the statuses of callers with a key each who get no token, after a refresh or at once."""

    def decide(calls: Any) -> list[Any]:
        if must_wait and calls[0].refresh is fetch.Refresh.NOT_TRIED:
            return [Wait(connection_pk=1, app_pk=1, patience=5.0) for _ in calls]
        return [Refused(connection_pk=1, owner_pk=int(call.key)) for call in calls]

    async def run(function: Any, *arguments: Any) -> Any:
        if function is token_endpoint._answer_batch:
            return decide(*arguments)
        await asyncio.sleep(0.05)  # the refresh fails
        return True

    monkeypatch.setattr(token_endpoint, "_BATCH", 1)
    got: list[int] = []

    async def send(message: Any) -> None:
        got.extend([message["status"]] if "status" in message else [])

    async def ask() -> None:
        endpoint = TokenEndpoint(view, lambda is_secure: [], run_in_thread=run)
        path = "/api/v1/connections/1/token"
        scope = {"path": path, "raw_path": path.encode(), "method": "GET", "query_string": b"", "scheme": "http"}
        calls = [
            {**scope, "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {owner}".encode())]}
            for owner in owners
        ]
        await asyncio.gather(*(endpoint(call, None, send) for call in calls))  # type: ignore[arg-type]

    asyncio.run(ask())
    return got


@pytest.mark.parametrize("must_wait", [True, False])
def test_one_explanation_answers_all_keys_of_an_owner(monkeypatch: pytest.MonkeyPatch, must_wait: bool) -> None:
    view = View(503)
    assert statuses(view, monkeypatch, [1] * 150 + [2] * 150, must_wait=must_wait) == [503] * 300
    assert view.requests == 2


@pytest.mark.parametrize("must_wait", [True, False])
def test_a_refusal_of_one_key_is_nobody_elses_answer(monkeypatch: pytest.MonkeyPatch, must_wait: bool) -> None:
    view = View(401)
    assert statuses(view, monkeypatch, [1] * 3, must_wait=must_wait) == [401] * 3
    assert view.requests == 3
