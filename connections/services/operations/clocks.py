"""How far the clocks of the portal's processes, of its database and of Microsoft differ from that of Redis.

Nothing depends on equal clocks any more, but certificates, sign-ins and times in the audit trail do. Every process
notes its own difference in Redis, so that one page can show all of them.
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
_LONGEST_ANSWER = 1.0  # seconds; a slower answer of Redis says little about its clock
_KEPT = 900.0  # seconds until the measurement of a stopped process is ignored


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
    """When this process measures next, in the seconds of time.monotonic()."""

    at = 0.0


def report(process: str) -> None:
    """Note the clock of this process, at most once a minute. Warns if it is off; does nothing without Redis."""
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
    """Return what all processes have noted, and the database's clock. Raises RedisError or DatabaseError."""
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
    """Read a note. What is too old, or was not written by us, does not count."""
    try:
        ahead, at = json.loads(note)
        return Clock(name.decode(), float(ahead)) if abs(now - at) < _KEPT else None
    except (ValueError, TypeError, RecursionError):
        return None


def _database(now: float) -> Clock | None:
    """SQLite has no clock of its own."""
    if database.vendor != "postgresql":
        return None
    with database.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return Clock("the database", moment.timestamp() - now)


def _key() -> str:
    return f"{settings.REDIS_PREFIX}:clocks"
