"""The token endpoint, which runs in front of Django. It batches calls and blocks no thread while a caller waits.

Calls that arrive while a batch is being answered form the next one (services/tokens/token_calls.py). Unusual requests
and errors are left to the route's view (tokens.py).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from random import getrandbits
from typing import Any
from urllib.parse import parse_qsl

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.db import connection as database
from django.http import HttpResponse
from django.http.request import split_domain_port, validate_host

from connections import tracing
from connections.api import authentication, problems, tokens
from connections.api.token_waiting import MOST_REFRESHES, Refreshes, RunInThread
from connections.client_address import forwarded_address
from connections.errors import DatabaseUnavailable, InvalidInput, TokenUnavailable
from connections.microsoft import resources
from connections.services.tokens import token_calls
from connections.services.tokens.fetch import Refresh, Token
from connections.services.tokens.single_flight import TokenRequirement
from connections.services.tokens.token_calls import Outcome, Refused, TokenCall, Wait

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger(__name__)

_PATH = re.compile(r"/api/v1/connections/([^/]+)/token")
_ROUTE = "/api/v1/connections/<ref>/token"
_BATCH = 64  # calls answered by one SQL statement
_LANES = 2  # concurrent batches, so that one is answered while the other waits for the database
_WORTHWHILE = 6  # calls; smaller batches don't run beside another one, because they would cost nearly as much
# Seconds to wait for more calls right after a batch with more than twice as many. Its callers are only just getting
# their tokens, and a batch with the first few who call again would keep the others waiting for longer.
_GATHER = 0.001
_OF_A_TOKEN = [(b"content-type", b"application/json; charset=utf-8"), (b"cache-control", b"no-store, private")]
_ANY_TOKEN = TokenRequirement(300), ""  # what a call without a query asks for
_SHORT_QUERY = 200  # characters; requests with longer queries are always left to the view


class Unusual(Exception):
    """Raised for a request that is left to the view."""


class TokenEndpoint:
    """The ASGI application for the token route. ``headers(is_secure)`` must return the headers to send with every
    response.
    """

    def __init__(
        self, django: Application, headers: Callable[[bool], Headers], *, run_in_thread: RunInThread | None = None
    ) -> None:
        self._django = django
        self._headers = lru_cache(maxsize=2)(headers)
        self._batches = Batches(run_in_thread or _threads(_LANES, "token call"))
        self._refreshes = Refreshes(run_in_thread or _threads(MOST_REFRESHES + 1, "refresh"))
        self._explanations: dict[tuple[Any, ...], asyncio.Task[Explanation]] = {}

    @staticmethod
    def serves(path: str) -> bool:
        return _PATH.fullmatch(path) is not None

    def stop_waiting(self) -> None:
        """Respond to all waiting callers now, because the server is about to stop."""
        self._refreshes.is_closing.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            call = read_call(scope)
        except Unusual:
            await self._django(scope, receive, send)
            return
        tracing.set_route(scope["method"], _ROUTE)
        try:
            await self._answer(call, scope, receive, send)
        except (DatabaseError, InterfaceError):
            logger.exception("The database cannot be reached; a token call is refused.")
            await self._send_problem(problems.problem_of(DatabaseUnavailable()), scope, send, call)

    async def _answer(self, call: TokenCall, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        outcome = await self._decide(call)
        refresh = None
        if isinstance(outcome, Wait):
            try:
                refresh = self._refreshes.begin(outcome, call.wanted)
            except TokenUnavailable as error:
                await self._send_problem(problems.problem_of(error), scope, send, call)
                return
            # The caller's waiting time includes the time that the decision took.
            patience = max(0.0, outcome.patience - (time.monotonic() - began))
            is_done = await self._refreshes.wait(refresh, patience)
            call.refresh = Refresh.DONE if is_done else Refresh.UNFINISHED
            outcome = await self._decide(call)
        if isinstance(outcome, Refused) or (refresh is not None and outcome is None):
            explanation = await self._explain(refresh, outcome, call, scope)
            if explanation is not None:
                await _send(send, explanation.status, explanation.headers, explanation.body, call)
                return
            outcome = await self._decide(call)
        if isinstance(outcome, Token):
            await self._send_token(outcome, scope, send, call)
        else:
            await self._django(_marked(scope, call), receive, send)

    async def _decide(self, call: TokenCall) -> Outcome:
        try:
            return await self._batches.answer(call)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:
            logger.exception("A token call could not be answered in front of Django.")
            return None

    async def _send_token(self, token: Token, scope: Scope, send: Send, call: TokenCall) -> None:
        body = tokens.json_of(token)
        headers = [*_OF_A_TOKEN, (b"content-length", b"%d" % len(body))]
        if token.trouble:
            headers.append((b"portal-trouble", token.trouble.encode()))
        await _send(send, 200, [*headers, *self._headers(is_secure(scope))], body, call)

    async def _send_problem(self, problem: HttpResponse, scope: Scope, send: Send, call: TokenCall) -> None:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in problem.items()]
        await _send(send, problem.status_code, [*headers, *self._headers(is_secure(scope))], problem.content, call)

    async def _explain(
        self, refresh: asyncio.Task[None] | None, refused: Refused | None, call: TokenCall, scope: Scope
    ) -> Explanation | None:
        """Get the view's explanation of why there is no token.

        It is fetched once for all callers who would get the same explanation: those who waited for this refresh, or
        whose requests arrive within a second. If there is a token by now, the view sends it to one caller and records
        that; the others get None and have to ask again.
        """
        caller = (call.key, call.address, scope["raw_path"]) if refused is None else refused
        group = (refresh, caller, call.resource, scope["method"], scope["query_string"])
        task = self._explanations.get(group)
        is_first = task is None
        if task is None:
            explaining = Explanation()
            task = asyncio.ensure_future(explaining.fetch(self._django, _marked(scope, call)))
            self._explanations[group] = task
            # Keep it for a second, because some of the callers may not have got here yet.
            task.add_done_callback(
                lambda _: asyncio.get_running_loop().call_later(1.0, self._explanations.pop, group, None)
            )
        explanation = await asyncio.shield(task)
        # Any other response to another caller's key says nothing about this caller's key.
        is_shared = explanation.status in (409, 503) if refused else explanation.status >= 400
        return explanation if is_first or is_shared else None


async def _send(send: Send, status: int, headers: Headers, body: bytes, call: TokenCall) -> None:
    # An ID is not secret. One from the operating system would let other threads run first.
    request_id = uuid.UUID(int=getrandbits(128), version=4)
    headers = [*headers, (b"x-request-id", str(request_id).encode())]
    if (limit := call.limit) is not None:
        headers.append((b"ratelimit-limit", b"%d" % limit.limit))
        headers.append((b"ratelimit-remaining", b"%d" % limit.remaining))
        headers.append((b"ratelimit-reset", b"%d" % limit.reset))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if call.is_head else body})


class Explanation:
    """The view's response, without the headers that differ between callers."""

    _OWN = (b"x-request-id", b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-reset")

    def __init__(self) -> None:
        self.status, self.headers, self.body = 500, Headers(), b""

    async def fetch(self, django: Application, scope: Scope) -> Explanation:
        await django(scope, _nothing_to_receive(), self._take)
        return self

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(name, value) for name, value in message["headers"] if name not in self._OWN]
        else:
            self.body += message.get("body", b"")


def _nothing_to_receive() -> Receive:
    """Return a ``receive`` function for an empty request body. After the body has been read, it waits forever."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("never reached")

    return receive


class Batches:
    """Collects the calls that arrive while a batch is being answered."""

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._run_in_thread = run_in_thread
        self._queue: list[tuple[TokenCall, asyncio.Future[Outcome]]] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._size, self._ended = 0, 0.0  # of the last batch

    async def answer(self, call: TokenCall) -> Outcome:
        """Return the outcome of the call, which is answered as part of a batch. Raises DatabaseError."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((call, outcome))
        if not self._lanes or (len(self._lanes) < _LANES and len(self._queue) >= _WORTHWHILE):
            lane = asyncio.ensure_future(self._work())
            self._lanes.add(lane)
        return await outcome

    async def _work(self) -> None:
        try:
            await self._answer_queue()
        finally:
            # A done callback would run slightly later, and a call that arrives in between would never be answered.
            self._lanes.discard(asyncio.current_task())

    async def _answer_queue(self) -> None:
        while self._queue:
            if 2 * len(self._queue) < self._size and time.monotonic() < self._ended + _GATHER:
                await asyncio.sleep(_GATHER)
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            try:
                outcomes = await self._run_in_thread(_answer_batch, [call for call, _ in batch])
            except Exception as error:  # noqa: BLE001 - each caller raises it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)
            self._size, self._ended = len(batch), time.monotonic()


def _answer_batch(calls: list[TokenCall]) -> list[Outcome]:
    if database.in_atomic_block:  # in a test
        return token_calls.answer(calls)
    try:
        # A span of its own: the statement answers the calls of several requests.
        with tracing.span("answer token requests", {"portal.requests": len(calls)}):
            return token_calls.answer(calls)
    except (DatabaseError, InterfaceError):
        database.close()
        raise
    finally:
        if database.close_at is not None and time.monotonic() >= database.close_at:
            database.close()


def _threads(number: int, name: str) -> RunInThread:
    threads = ThreadPoolExecutor(number, thread_name_prefix=name)

    def run_in_thread(function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(threads, function, *arguments)

    return run_in_thread


def read_call(scope: Scope) -> TokenCall:
    """Parse a request for a token. Raises Unusual for a request that is malformed or uses rare features."""
    path = _PATH.fullmatch(scope["path"])
    if path is None or scope["method"] not in ("GET", "HEAD") or len(scope["query_string"]) > _SHORT_QUERY:
        raise Unusual
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in (b"authorization", b"host", b"content-length"):
            raise Unusual
        headers[name] = headers[name] + b"," + value if name in headers else value
    if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
        raise Unusual
    if not is_allowed_host(headers.get(b"host", b""), tuple(settings.ALLOWED_HOSTS)) or (
        settings.SECURE_SSL_REDIRECT and not is_secure(scope)
    ):
        raise Unusual
    ref = path[1]
    is_number = ref.isascii() and ref.isdigit()
    longest = authentication.LONGEST_NUMBER if is_number else authentication.LONGEST_NAME
    if len(ref) > longest or "\x00" in ref or "\ufffd" in ref:
        raise Unusual
    wanted, resource = _read_query(scope["query_string"])
    return TokenCall(
        key=_key(headers.get(b"authorization", b"")),
        pk=int(ref) if is_number else None,
        name=None if is_number else ref,
        wanted=wanted,
        resource=resource,
        address=forwarded_address(
            headers.get(b"x-forwarded-for", b"").decode("latin-1"), scope["client"][0] if scope.get("client") else ""
        ),
        is_head=scope["method"] == "HEAD",
    )


def is_secure(scope: Scope) -> bool:
    """Whether Django would consider the request secure (HTTPS)."""
    if settings.SECURE_PROXY_SSL_HEADER:
        values: list[bytes] = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        if values:
            return values[0].split(b",")[0].strip() == b"https"
    return bool(scope["scheme"] == "https")


@lru_cache(maxsize=64)
def is_allowed_host(host: bytes, allowed: tuple[str, ...]) -> bool:
    """Whether Django would accept the Host header."""
    domain, _ = split_domain_port(host.decode("latin-1"))
    return bool(domain) and validate_host(domain, allowed)


def _key(authorization: bytes) -> str:
    scheme, _, text = authorization.partition(b" ")
    if scheme.lower() != b"bearer" or not text.isascii() or b" " in text:
        raise Unusual
    return text.decode()


def _read_query(query: bytes) -> tuple[TokenRequirement, str]:
    """Return the requirement and the resource's key ("" for the connection's own resource). May raise Unusual."""
    if not query:
        return _ANY_TOKEN
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    except ValueError as malformed:
        raise Unusual from malformed
    values = {"min_valid": "300", "refused": "", "resource": ""} | dict(pairs)
    min_valid, refused = values["min_valid"], values["refused"]
    if len(values) > 3 or len(dict(pairs)) < len(pairs) or not re.fullmatch("([0-9a-f]{32})?", refused):
        raise Unusual
    if not re.fullmatch("[0-9]{1,4}", min_valid) or int(min_valid) > tokens.LONGEST_VALIDITY:
        raise Unusual
    try:
        resource = values["resource"] and resources.key_of(values["resource"])
    except InvalidInput as unknown:
        raise Unusual from unknown
    return TokenRequirement(int(min_valid), refused), resource


def _marked(scope: Scope, call: TokenCall) -> Scope:
    """Return the scope for the view, with marks for the steps that are already done."""
    marks: dict[str, Any] = {}
    if call.is_counted:
        marks[authentication.RATE_LIMIT] = call.limit
    if call.refresh is not Refresh.NOT_TRIED:
        marks[tokens.REFRESH] = call.refresh
    return {**scope, "portal.environ": marks}
