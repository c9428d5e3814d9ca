"""Rate limits per clock minute, counted in Redis for all processes. Without Redis, calls are not limited."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import redis
from django.conf import settings

from connections import counters

logger = logging.getLogger(__name__)

WINDOW = 60  # seconds
LEASE = 200  # a process reserves 1/LEASE of a limit at a time
# Redis must not delay calls: after a failure we do not try it again for RETRY_AFTER.
TIMEOUT = 0.5  # seconds
RETRY_AFTER = 5.0  # seconds
NOT_LIMITED = "portal_api_calls_not_limited_total"


@dataclass(frozen=True, slots=True)
class RateLimitState:
    limit: int
    count: int
    reset: int  # seconds until the next window

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.count)

    @property
    def is_exceeded(self) -> bool:
        return self.count > self.limit


def count(name: str, *, limit: int, now: datetime) -> RateLimitState | None:
    """Count one call under ``name``.

    Returns None if the call is not limited (``limit`` is 0, or Redis is unavailable).
    """
    return count_many([(name, limit)], now=now)[0]


def count_many(calls: Sequence[tuple[str, int]], *, now: datetime) -> list[RateLimitState | None]:
    """Count several calls as ``count`` does, each given as name and limit, with at most one round trip to Redis."""
    window, second = divmod(int(now.timestamp()), WINDOW)
    needed: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    with _leases.lock:
        _leases.begin(window)
        for name, limit in calls:
            if limit:
                needed[name] += 1
                sizes[name] = max(1, limit // LEASE)
        short = {name: number for name, number in needed.items() if _leases.left(name) < number}
        if short:
            if outage.is_on(needed.total()):
                return [None] * len(calls)
            reserved = {name: max(number - _leases.left(name), sizes[name]) for name, number in short.items()}
            try:
                _leases.reserve(reserved, window)
            except (redis.RedisError, OSError):
                outage.begin(needed.total())
                return [None] * len(calls)
        return [RateLimitState(limit, _leases.take(name), WINDOW - second) if limit else None for name, limit in calls]


class _Leases:
    """The calls that this process has reserved under each name in the current window."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._window = 0
        self._counts: dict[str, list[range]] = {}  # reserved but not used yet; ranges are never empty

    def begin(self, window: int) -> None:
        if window != self._window:
            self._window, self._counts = window, {}

    def left(self, name: str) -> int:
        return sum(map(len, self._counts.get(name, [])))

    def take(self, name: str) -> int:
        counts = self._counts[name]
        first, counts[0] = counts[0][0], counts[0][1:]
        if not counts[0]:
            del counts[0]
        return first

    def reserve(self, numbers: dict[str, int], window: int) -> None:
        # INCRBY is atomic, so concurrent processes reserve different numbers. EXPIRE only cleans up.
        with client().pipeline(transaction=True) as pipe:
            for name, number in numbers.items():
                key = f"{settings.REDIS_PREFIX}:rate:{name}:{window}"
                pipe.incrby(key, number)
                pipe.expire(key, 2 * WINDOW)
            totals = pipe.execute()[::2]
        for (name, number), total in zip(numbers.items(), totals, strict=True):
            self._counts.setdefault(name, []).append(range(int(total) - number + 1, int(total) + 1))


_leases = _Leases()


class _Outage:
    """Remembers for RETRY_AFTER seconds that Redis is unreachable. Shared by all threads of this process."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self, calls: int) -> None:
        self._until = time.monotonic() + RETRY_AFTER
        counters.add(NOT_LIMITED, times=calls)
        logger.warning("The cache cannot be reached; calls of the API are not limited.")

    def is_on(self, calls: int) -> bool:
        if time.monotonic() >= self._until:
            return False
        counters.add(NOT_LIMITED, times=calls)
        return True


outage = _Outage()


@cache
def client() -> redis.Redis:
    """Return a plain Redis client with short time-outs, for operations that must be atomic."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, **settings.REDIS_TLS
    )
