"""How many calls in a minute are allowed: counted in the cache, for all processes together.

A window is one minute of the clock. Without the cache nothing is limited: the API goes on, and the log says so.
"""

from __future__ import annotations

import logging
import threading
import time
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


def count(name: str, *, limit: int, now: datetime, calls: int = 1) -> RateLimitState | None:
    """Count a call of ``name`` and say where it stands; None where nothing is limited (limit 0, or no cache).

    ``calls`` 0 only looks.
    """
    if not limit or _outage.is_on():
        return None
    moment = int(now.timestamp())
    key = f"rate:{name}:{moment // WINDOW}"
    try:
        # One round trip, and atomic: INCRBY counts, EXPIRE only makes room again.
        with client().pipeline(transaction=True) as pipe:
            pipe.incrby(key, calls)
            pipe.expire(key, 2 * WINDOW)
            counted = int(pipe.execute()[0])
    except (redis.RedisError, OSError):
        _outage.begin()
        return None
    return RateLimitState(limit, counted, WINDOW - moment % WINDOW)


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
