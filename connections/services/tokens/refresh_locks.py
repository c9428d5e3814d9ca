"""Locks in the cache that prevent two refreshes of the same connection at the same time.

A caller's *turn* makes all callers for one resource share one refresh. The *grant lock* is held during every request
with a connection's refresh token, so that callers, the sweep and manual checks never use it at the same time. Without
the cache, every process may send requests: Microsoft gets more of them, but automations still get their tokens.
"""

import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from django.core.cache import cache
from redis.exceptions import RedisError

from connections.services.api_keys import rate_limit

logger = logging.getLogger(__name__)

# A lock expires after this time if its holder is killed. While the holder is at work, it renews the lock.
LOCK_SECONDS = 30
RENEW_EVERY = LOCK_SECONDS / 3
RENEWED_FOR = 300.0  # seconds; nothing takes longer than the lease of a claim (scheduler.py), so a holder may hang
_LOOK_EVERY = 0.05  # seconds

# Compare and delete in one step. Otherwise, another process could take the lock in between.
_DELETE_OURS = """
local released = 0
for _, key in ipairs(KEYS) do
  if redis.call('get', key) == ARGV[1] then released = released + redis.call('del', key) end
end
return released
"""
# A value that never expires was not written by the portal.
_TAKE_ALL = """
local taken = {}
for place, key in ipairs(KEYS) do
  if redis.call('pttl', key) < 0 then
    redis.call('set', key, ARGV[1], 'PX', ARGV[2])
    taken[#taken + 1] = place
  end
end
return taken
"""
# A lock that is gone, because Redis was restarted, is taken again; one that another process has by now is not.
_RENEW = """
for place, key in ipairs(KEYS) do
  local mark = redis.call('get', key)
  if mark == ARGV[place + 1] then
    redis.call('pexpire', key, ARGV[1])
  elseif not mark then
    redis.call('set', key, ARGV[place + 1], 'PX', ARGV[1])
  end
end
"""
_CACHE_DOWN = (RedisError, OSError)


class _Renewal:
    """A thread of this process that renews the locks it holds. A killed process renews none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int, float]] = {}  # by lock name: our mark, and until when to renew it
        self._thread: threading.Thread | None = None

    def begin(self, keys: Iterable[str], mark: int) -> None:
        until = time.monotonic() + RENEWED_FOR
        with self._lock:
            self._held |= dict.fromkeys(keys, (mark, until))
            if self._thread is None or not self._thread.is_alive():  # a forked process has only the thread that forked
                thread = threading.Thread(target=self._run, name="refresh locks", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # no more threads; the locks then expire
                    logger.warning("Refresh locks cannot be renewed, because no thread can be started.")
                else:
                    self._thread = thread

    def end(self, keys: Iterable[str], mark: int) -> None:
        """Stop renewing these locks. A renewal that has already begun finishes first."""
        with self._lock:
            for key in keys:
                if key in self._held and self._held[key][0] == mark:
                    del self._held[key]

    def renew(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._held = {key: held for key, held in self._held.items() if held[1] > now}
            if self._held:
                marks = [mark for mark, _ in self._held.values()]
                with suppress(*_CACHE_DOWN):
                    rate_limit.client().eval(_RENEW, len(marks), *self._held, LOCK_SECONDS * 1000, *marks)

    def _run(self) -> None:
        while True:
            time.sleep(RENEW_EVERY)
            try:
                self.renew()
            except Exception:  # without this thread, locks would expire while they are needed
                logger.exception("Refresh locks could not be renewed.")


_renewal = _Renewal()


def lock_name(pk: int, resource: str = "") -> str:
    """Return the name of the lock for refreshing a token: that of ``resource``, or the connection's own if empty."""
    return f"refresh:{pk}:{resource}" if resource else f"refresh:{pk}"


def grant_lock_name(pk: int) -> str:
    return f"grant:{pk}"


def acquire(lock: str) -> int | None:
    """Take the lock. Returns the mark needed to release it, or None if another process has the lock."""
    mark = secrets.randbits(62)
    try:
        if not cache.add(lock, mark, timeout=LOCK_SECONDS):
            # What is no mark was not written by us, and would never expire.
            if type(cache.get(lock, mark)) is int:
                return None
            cache.set(lock, mark, timeout=LOCK_SECONDS)
    except _CACHE_DOWN:
        logger.warning("The cache cannot be reached; a token is refreshed without a lock.")
    _renewal.begin([cache.make_key(lock)], mark)  # also takes a lock that could not be taken, once the cache is back
    return mark


def release(lock: str, mark: int) -> None:
    """Release our lock, unless it has expired and another process has taken it."""
    _renewal.end([cache.make_key(lock)], mark)
    with suppress(*_CACHE_DOWN):  # the lock expires anyway
        rate_limit.client().eval(_DELETE_OURS, 1, cache.make_key(lock), mark)


def is_done(locks: Collection[str]) -> set[str]:
    """Return the locks that no process holds any longer."""
    try:
        taken = cache.get_many(locks) if locks else {}
    except _CACHE_DOWN:
        taken = {}
    return {lock for lock in locks if type(taken.get(lock)) is not int}


@contextmanager
def grant_lock(pk: int, *, patience: float) -> Iterator[bool]:
    """Hold the connection's grant lock during the block.

    Yields False if it could not be taken in ``patience`` seconds.
    """
    end = time.monotonic() + patience
    while (mark := acquire(grant_lock_name(pk))) is None and time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
    try:
        yield mark is not None
    finally:
        if mark is not None:
            release(grant_lock_name(pk), mark)


class GrantLocks:
    """The grant locks of a sweep. They are held until they are released or the block ends."""

    def __init__(self) -> None:
        self._mark = secrets.randbits(62)
        self._held: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release(list(self._held))

    def take(self, pks: Collection[int]) -> set[int]:
        """Take the locks that are free, in one round trip. Returns the connections whose locks were taken."""
        ordered = list(pks)
        held = set(ordered)
        if ordered:
            try:
                milliseconds = LOCK_SECONDS * 1000
                places = rate_limit.client().eval(_TAKE_ALL, len(held), *_keys(ordered), self._mark, milliseconds)
                held = {ordered[place - 1] for place in places}
            except _CACHE_DOWN:
                logger.warning("The cache cannot be reached; tokens are refreshed without locks.")
            _renewal.begin(_keys(held), self._mark)
        self._held |= held
        return held

    def release(self, pks: Iterable[int]) -> None:
        ours = self._held.intersection(pks)
        self._held -= ours
        if ours:
            _renewal.end(_keys(ours), self._mark)
            with suppress(*_CACHE_DOWN):
                rate_limit.client().eval(_DELETE_OURS, len(ours), *_keys(ours), self._mark)


def _keys(pks: Iterable[int]) -> list[str]:
    return [cache.make_key(grant_lock_name(pk)) for pk in pks]
