"""Rate limits per minute of the clock, counted in Redis for all processes; without Redis nothing is limited."""

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


def count(name: str, *, limit: int, now: datetime, calls: int = 1) -> RateLimitState | None:
    """Count calls (0: only read); None if nothing is limited, because ``limit`` is 0 or Redis is unavailable."""
    if not limit or _outage.is_on():
        return None
    moment = int(now.timestamp())
    key = f"rate:{name}:{moment // WINDOW}"
    try:
        # One atomic round trip.
        with client().pipeline(transaction=True) as pipe:
            pipe.incrby(key, calls)
            pipe.expire(key, 2 * WINDOW)
            counted = int(pipe.execute()[0])
    except (redis.RedisError, OSError):
        _outage.begin()
        return None
    return RateLimitState(limit, counted, WINDOW - moment % WINDOW)


def uncounted_calls() -> int:
    """Calls of this process that were not counted because Redis could not be reached."""
    return _outage.uncounted


class _Outage:
    """Redis cannot be reached; shared by the threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until = 0.0
        self.uncounted = 0

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


_outage = _Outage()


@cache
def client() -> redis.Redis:
    """The Redis client itself, with short time-outs, for operations that must be atomic."""
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
