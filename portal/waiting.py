"""A waiting room for requests: who waits for something slow holds no thread meanwhile.

A view that would have to wait (for a refresh at Microsoft, say) puts a ``Wait`` into the WSGI environment and answers
as if it had waited in vain. The server (portal/worker.py) throws that answer away, puts the connection aside and does
the request once more when the wait is over. So a thousand callers who wait for one hanging connection leave all
threads to the others. Only requests that change nothing may do so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

# Keys of the WSGI environment.
MAY_WAIT = "portal.may_wait"  # there where a request may be put aside
AGAIN = "portal.again"  # there where a request has been put aside and is done once more
WAIT = "portal.wait"  # the Wait that a view asks for

LOOK_EVERY = 0.05  # seconds
MOST_PER_KEY = 1200
MOST_IN_ALL = 2400
# Let back in at each look, for each thread: a thousand that have waited must not stand in everybody else's way.
AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Wait:
    """What a request waits for: until ``over`` names ``key``, at most ``seconds``."""

    key: str
    seconds: float
    over: Callable[[Collection[str]], Collection[str]]


class WaitingRoom:
    """Connections put aside, each until what it waits for is over or its time is."""

    def __init__(self, let_in: Callable[[Any], None], *, at_a_time: int) -> None:
        self._let_in, self._at_a_time = let_in, at_a_time
        self._lock = threading.Lock()
        self._waiting: list[tuple[Any, Wait, float]] = []
        self._is_looking = False
        self.closing = False

    def has_room(self, wait: Wait) -> bool:
        """Whether one more may wait for this."""
        with self._lock:
            counts = Counter(one.key for _, one, _ in self._waiting)
        return not self.closing and counts[wait.key] < MOST_PER_KEY and counts.total() < MOST_IN_ALL

    def put(self, connection: Any, wait: Wait) -> None:
        """Put a connection aside; it is let in again from another thread."""
        with self._lock:
            self._waiting.append((connection, wait, time.monotonic() + wait.seconds))
            start, self._is_looking = not self._is_looking, True
        if start:
            try:
                threading.Thread(target=self._look, name="waiting room", daemon=True).start()
            except RuntimeError:  # the system gives no thread just now
                with self._lock:
                    self._is_looking = False
                    self._waiting = [one for one in self._waiting if one[0] is not connection]
                raise

    def _look(self) -> None:
        """Runs as long as anybody waits."""
        while True:
            with self._lock:
                waiting = list(self._waiting)
                if not waiting:
                    self._is_looking = False
                    return
            over = _over({wait.key: wait for _, wait, _ in waiting})
            now = time.monotonic()
            ready = [one for one in waiting if one[1].key in over or one[2] <= now or self.closing]
            ready = ready if self.closing else ready[: self._at_a_time]
            leaving = {id(one) for one in ready}
            with self._lock:
                self._waiting = [one for one in self._waiting if id(one) not in leaving]
            for connection, _, _ in ready:
                try:
                    self._let_in(connection)
                except Exception:  # one that cannot be let in must not leave the others waiting for ever
                    logger.exception("A request that had waited could not be let in again.")
            time.sleep(LOOK_EVERY)


def _over(waits: dict[str, Wait]) -> set[str]:
    found: set[str] = set()
    for look in {wait.over for wait in waits.values()}:
        try:
            found.update(look([key for key, wait in waits.items() if wait.over == look]))
        except Exception:
            logger.exception("The waiting room could not look at what it waits for.")
    return found
