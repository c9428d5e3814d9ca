"""Rate limits per minute of the clock, counted in Redis for all processes; without Redis nothing is limited."""

from __future__ import annotations

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

logger = logging.getLogger(__name__)

WINDOW = 60  # seconds
LEASE = 200  # a process reserves one in LEASE of a limit at once
# Redis must not delay calls: after a failure it is not tried again for RETRY_AFTER.
TIMEOUT = 0.5  # seconds
RETRY_AFTER = 5.0  # seconds


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
    """Count a call of ``name``; None if nothing is limited (limit 0, or Redis is unavailable)."""
    return count_many([(name, limit)], now=now)[0]


def count_many(calls: Sequence[tuple[str, int]], *, now: datetime) -> list[RateLimitState | None]:
    """As ``count`` for several calls, each a name and its limit, in one round trip at most."""
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
            if outage.is_on():
                return [None] * len(calls)
            reserved = {name: max(number, sizes[name]) for name, number in short.items()}
            try:
                _leases.reserve(reserved, window)
            except (redis.RedisError, OSError):
                outage.begin()
                return [None] * len(calls)
        return [RateLimitState(limit, _leases.take(name), WINDOW - second) if limit else None for name, limit in calls]


class _Leases:
    """What this process has reserved of each limit within the present window."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._window = 0
        self._ranges: dict[str, tuple[int, int]] = {}  # the last count that was used, and the last that may be

    def begin(self, window: int) -> None:
        if window != self._window:
            self._window, self._ranges = window, {}

    def left(self, name: str) -> int:
        used, end = self._ranges.get(name, (0, 0))
        return end - used

    def take(self, name: str) -> int:
        used, end = self._ranges[name]
        self._ranges[name] = (used + 1, end)
        return used + 1

    def reserve(self, numbers: dict[str, int], window: int) -> None:
        # Atomic: INCRBY counts, EXPIRE only makes room again.
        with client().pipeline(transaction=True) as pipe:
            for name, number in numbers.items():
                key = f"rate:{name}:{window}"
                pipe.incrby(key, number)
                pipe.expire(key, 2 * WINDOW)
            totals = pipe.execute()[::2]
        for (name, number), total in zip(numbers.items(), totals, strict=True):
            self._ranges[name] = (int(total) - number, int(total))


_leases = _Leases()


class _Outage:
    """Redis cannot be reached; shared by the threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self.uncounted = 0  # calls of this process that no limit could be applied to

    def begin(self) -> None:
        with self._lock:
            self._until = time.monotonic() + RETRY_AFTER
            self.uncounted += 1
        logger.warning("The cache cannot be reached; calls of the API are not limited.")

    def is_on(self) -> bool:
        if time.monotonic() >= self._until:
            return False
        with self._lock:
            self.uncounted += 1
        return True


outage = _Outage()


@cache
def client() -> redis.Redis:
    """The Redis client itself, with short time-outs, for operations that must be atomic."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
