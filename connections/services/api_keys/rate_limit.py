"""How many calls in a minute are allowed: counted in the cache, for all processes together.

A window is one minute of the clock. Without the cache nothing is limited: the API goes on, and the log says so.
"""

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
# A cache that does not answer must not hold up calls; after a failure it is left alone for a moment.
TIMEOUT = 0.5  # seconds
LEAVE_ALONE = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """Where somebody stands within the present window."""

    limit: int
    count: int
    reset: int  # seconds until the next window

    @property
    def remaining(self) -> int:
        """Calls that are left."""
        return max(0, self.limit - self.count)

    @property
    def is_exceeded(self) -> bool:
        """Whether this call is one too many."""
        return self.count > self.limit


def count(name: str, *, limit: int, now: datetime) -> RateLimitState | None:
    """Count a call of ``name`` and say where it stands; None where nothing is limited (limit 0, or no cache)."""
    return count_many([(name, limit)], now=now)[0]


def count_many(calls: Sequence[tuple[str, int]], *, now: datetime) -> list[RateLimitState | None]:
    """As ``count`` for several calls, each a name and its limit, in one round trip."""
    numbers = Counter(name for name, limit in calls if limit)
    if not numbers or _outage.is_on():
        return [None] * len(calls)
    moment = int(now.timestamp())
    try:
        # Atomic: INCRBY counts, EXPIRE only makes room again.
        with client().pipeline(transaction=True) as pipe:
            for name, number in numbers.items():
                key = f"rate:{name}:{moment // WINDOW}"
                pipe.incrby(key, number)
                pipe.expire(key, 2 * WINDOW)
            totals = pipe.execute()[::2]
    except (redis.RedisError, OSError):
        _outage.begin()
        return [None] * len(calls)
    last = {name: int(total) - number for (name, number), total in zip(numbers.items(), totals, strict=True)}
    states: list[RateLimitState | None] = []
    for name, limit in calls:
        if not limit:
            states.append(None)
            continue
        last[name] += 1
        states.append(RateLimitState(limit, last[name], WINDOW - moment % WINDOW))
    return states


def uncounted_calls() -> int:
    """Calls of this process that were let through without being counted, because the cache could not be reached."""
    return _outage.passed


class _Outage:
    """The cache cannot be reached just now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self.passed = 0

    def begin(self) -> None:
        with self._lock:
            self._until = time.monotonic() + LEAVE_ALONE
            self.passed += 1
        logger.warning("The cache cannot be reached; calls of the API are not limited.")

    def is_on(self) -> bool:
        if time.monotonic() >= self._until:
            return False
        with self._lock:
            self.passed += 1
        return True


_outage = _Outage()


@cache
def client() -> redis.Redis:
    """The cache itself, for what must be atomic there. It does not hold up callers for long."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
