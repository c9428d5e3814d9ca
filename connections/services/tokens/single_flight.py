"""Refreshing one connection because somebody asks for its token: once, however many ask, in however many processes.

Whose turn it is stands in the cache. ``begin`` starts the refresh in a thread of its own and returns at once, so the
thread that serves the caller never waits for Microsoft; the callers come back when ``over`` says so.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.cache import cache
from django.db import close_old_connections
from django.utils import timezone
from redis.exceptions import RedisError

from connections.errors import TokenUnavailable
from connections.models import Connection
from connections.services.api_keys import rate_limit
from connections.services.tokens import apply_results, batch_client, scheduler

logger = logging.getLogger(__name__)

# The turn ends by itself if its holder dies; longer than asking Microsoft can take.
LOCK_SECONDS = 30
# In one process: refreshes under way, those of one app registration (one that hangs must not hold up the others), and
# those that wait for a thread.
MOST_AT_ONCE = 16
MOST_OF_ONE_APP = 8
MOST_IN_LINE = 500

# In a minute, for one connection whose token is still valid: a caller who wants one that lasts longer than Microsoft's
# tokens do would otherwise cause a question at every call, until Microsoft makes the whole app registration wait.
MOST_EARLY = 10

# Looking and deleting in two steps could delete what another one has taken in between.
_DELETE_OURS = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

# Without the cache every process has its turn: Microsoft is asked more often, and automations get their tokens.
_CACHE_DOWN = (RedisError, OSError)


def token_id(access_token: str) -> str:
    """A name for a token which tells nothing of it: the first half of its SHA-256."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TokenRequirement:
    """What a caller asks of a token."""

    min_valid: int  # seconds it must last at least
    refused: str = ""  # id_of a token which Microsoft's services did not accept, though its time is not over

    def accepts(self, access_token: str, expires_at: datetime, now: datetime) -> bool:
        """Whether this token will do."""
        return expires_at >= now + timedelta(seconds=self.min_valid) and not self.refuses(access_token)

    def refuses(self, access_token: str) -> bool:
        """Whether it is the very token that was refused."""
        return bool(self.refused) and self.refused == token_id(access_token)


def lock_name(pk: int) -> str:
    """The name of the turn to refresh a connection."""
    return f"refresh:{pk}"


def acquire(turn: str) -> int | None:
    """The mark with which the turn, ours now, is to be given back; None if it is another one's."""
    mark = secrets.randbits(62)
    try:
        return mark if cache.add(turn, mark, timeout=LOCK_SECONDS) else None
    except _CACHE_DOWN:
        logger.warning("The cache cannot be reached; a token is refreshed without taking turns.")
        return mark


def release(turn: str, mark: int) -> None:
    """Let others have the turn, unless our time was over and another one has it already."""
    with suppress(*_CACHE_DOWN):  # it ends by itself
        rate_limit.client().eval(_DELETE_OURS, 1, cache.make_key(turn), mark)


def is_done(turns: Collection[str]) -> set[str]:
    """Which of these refreshes are over: nobody, in no process, is at them or waits to be."""
    mine = _line.turns()
    others = [turn for turn in turns if turn not in mine]
    try:
        taken = cache.get_many(others) if others else {}
    except _CACHE_DOWN:
        taken = {}
    return {turn for turn in others if turn not in taken}


def microsoft_just_failed(pk: int, now: datetime) -> bool:
    """Whether Microsoft has just given no answer, or asked for patience: polling would only make it worse."""
    columns = ("trouble_at", "app_registration__paused_until")
    trouble_at, paused_until = Connection.objects.values_list(*columns).get(pk=pk)
    if paused_until is not None and paused_until > now:
        return True
    return trouble_at is not None and now - trouble_at < timedelta(seconds=TokenUnavailable.retry_after)


def may_refresh_early(pk: int, now: datetime) -> bool:
    """Whether Microsoft may be asked once more in this minute, although there is a valid token."""
    standing = rate_limit.count(f"early:{pk}", limit=MOST_EARLY, now=now)
    return standing is None or not standing.is_exceeded


def refresh(pk: int, *, now: datetime) -> None:
    """Ask Microsoft about the connection and write the answer down. The caller has the turn."""
    apply_results.apply(batch_client.request_tokens(scheduler.claim_one(pk, now=now)), now=now)


def begin(connection: Connection, wanted: TokenRequirement) -> None:
    """See to it that the connection is refreshed, unless its token is as ``wanted``; returns at once.

    Raises TryAgainSoon if too much is under way already.
    """
    _line.add(connection.pk, connection.app_registration_id, lambda: _in_turn(connection.pk, wanted))


def _in_turn(pk: int, wanted: TokenRequirement) -> None:
    turn = lock_name(pk)
    mark = acquire(turn)
    if mark is None:
        return  # another process is at it
    try:
        # Somebody may have been faster between the caller's look and this turn.
        now = timezone.now()
        connection = Connection.objects.filter(pk=pk).values_list("access_token", "expires_at").first()
        if connection is None:
            return
        access_token, expires_at = connection
        is_early = bool(access_token and expires_at and expires_at > now)
        will_do = bool(access_token and expires_at and wanted.accepts(access_token, expires_at, now))
        if will_do or microsoft_just_failed(pk, now):
            return
        if not is_early or may_refresh_early(pk, now):
            refresh(pk, now=now)
    finally:
        release(turn, mark)


class _Line:
    """Refreshes under way and in line, in this process. A thread that has done one goes on with the next it may do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="refresh")
        self._waiting: deque[tuple[int, int, Callable[[], None]]] = deque()
        self._known: set[int] = set()
        self._running: Counter[int] = Counter()

    def turns(self) -> set[str]:
        """The turns of all that is under way or in line."""
        with self._lock:
            return {lock_name(pk) for pk in self._known}

    def add(self, pk: int, app_id: int, job: Callable[[], None]) -> None:
        """Have ``job`` done, unless one for the same connection is known. Raises TryAgainSoon if the line is full."""
        with self._lock:
            if pk in self._known:
                return
            if len(self._waiting) >= MOST_IN_LINE:
                raise TokenUnavailable("Too many connections are being refreshed at this moment.")
            self._known.add(pk)
            self._waiting.append((pk, app_id, job))
        self._threads.submit(self._work)

    def _next(self) -> tuple[int, int, Callable[[], None]] | None:
        with self._lock:
            for place, (pk, app_id, job) in enumerate(self._waiting):
                if self._running[app_id] < MOST_OF_ONE_APP:
                    del self._waiting[place]
                    self._running[app_id] += 1
                    return pk, app_id, job
        return None

    def _work(self) -> None:
        while (found := self._next()) is not None:
            pk, app_id, job = found
            close_old_connections()
            try:
                job()
            except Exception:
                # Whoever waits for it is told that there is no token yet; the sweep tries again in its own time.
                logger.exception("A refresh that a caller waits for has failed.", extra={"connection": pk})
            finally:
                close_old_connections()
                with self._lock:
                    self._known.discard(pk)
                    self._running[app_id] -= 1


_line = _Line()
