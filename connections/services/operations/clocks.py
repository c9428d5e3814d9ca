"""The differences between Redis's clock and those of the portal's processes, of its database and of Microsoft.

The portal works without equal clocks, but certificates, sign-ins and times in the audit trail depend on them. Every
process stores its own difference in Redis, so that one page can show all of them.
"""

import json
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import redis
import structlog
from django.conf import settings
from django.db import connection as database

from connections.microsoft import server_clock
from connections.services.api_keys import rate_limit

logger = structlog.get_logger(__name__)

TOLERANCE = 5.0  # seconds that a clock may differ before the portal warns
INTERVAL = 60.0  # seconds between two measurements by one process
_LONGEST_ANSWER = 1.0  # seconds; after a slower response, Redis's time is too imprecise
_KEPT = 900.0  # seconds after which a measurement is ignored, because the process has stopped


@dataclass(frozen=True, slots=True)
class Clock:
    name: str
    ahead: float  # seconds; negative if it is behind

    @property
    def is_off(self) -> bool:
        return abs(self.ahead) > TOLERANCE

    def __str__(self) -> str:
        return f"{self.name} is {abs(self.ahead):.0f} seconds {'ahead' if self.ahead > 0 else 'behind'}"


class _Due:
    """The time of this process's next measurement, in seconds of time.monotonic()."""

    at = 0.0


def report(process: str) -> None:
    """Store the difference of this process's clock, at most once a minute. Warns in the log if the clock is off.

    Does nothing without Redis.
    """
    if time.monotonic() < _Due.at:
        return
    _Due.at = time.monotonic() + INTERVAL
    try:
        before, now, after = time.time(), _redis_time(), time.time()
        if after - before > _LONGEST_ANSWER:
            return
        clocks = _measured_here(process, (before + after) / 2 - now)
        notes: dict[Any, Any] = {clock.name: json.dumps([clock.ahead, now]) for clock in clocks}
        with rate_limit.client().pipeline() as pipe:
            pipe.hset(_key(), mapping=notes)
            pipe.expire(_key(), int(_KEPT))
            pipe.execute()
    except redis.ResponseError:  # the value isn't ours
        rate_limit.client().delete(_key())
        return
    except (redis.RedisError, OSError):
        return
    for clock in clocks:
        if clock.is_off:
            logger.warning("A clock differs from that of Redis", clock=clock.name, seconds_ahead=round(clock.ahead, 1))


def readings() -> list[Clock]:
    """Return the clocks that all processes have stored, and the database's clock.

    Raises RedisError or DatabaseError.
    """
    now = _redis_time()
    try:
        notes = cast("dict[bytes, bytes]", rate_limit.client().hgetall(_key()))
    except redis.ResponseError:
        notes = {}
    clocks = [_noted(name, note, now) for name, note in sorted(notes.items())]
    return [clock for clock in (*clocks, _database(now)) if clock is not None]


def _measured_here(process: str, ahead: float) -> list[Clock]:
    clocks = [Clock(f"{process} on {socket.gethostname()}", ahead)]
    ahead_of_microsoft = server_clock.seconds_ahead()
    if ahead_of_microsoft is not None:
        clocks.append(Clock("Microsoft", ahead - ahead_of_microsoft))
    return clocks


def _redis_time() -> float:
    seconds, microseconds = rate_limit.client().time()
    return float(seconds + microseconds / 1e6)


def _noted(name: bytes, note: bytes, now: float) -> Clock | None:
    """Parse a stored clock. Returns None if it is too old or was not written by the portal."""
    try:
        ahead, at = json.loads(note)
        return Clock(name.decode(), float(ahead)) if abs(now - at) < _KEPT else None
    except (ValueError, TypeError, RecursionError):
        return None


def _database(now: float) -> Clock | None:
    """Return the database's clock, or None for SQLite, which has no clock of its own."""
    if database.vendor != "postgresql":
        return None
    with database.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return Clock("the database", moment.timestamp() - now)


def _key() -> str:
    return f"{settings.REDIS_PREFIX}:clocks"
