"""Ends a worker or beat that has silently stopped working, so that its supervisor restarts it.

A process can lose the broker without noticing, or all its tasks can hang. It then looks healthy forever.
docs/operating.md requires a supervisor.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import signals
from django.conf import settings

logger = structlog.get_logger(__name__)

INTERVALS = 20  # intervals that may pass without a tick, if this is longer than WATCHDOG_SECONDS
HANGING = 6  # factor for the limit while a task is running; other tasks still start and end unless all threads hang
_LOOK = 10.0  # seconds between two checks
EXIT_CODE = 75  # EX_TEMPFAIL: try again


class Watchdog:
    """Calls ``end`` after ``limit`` seconds without a sign of life, or HANGING times that if a task is running."""

    def __init__(self, *, limit: float, end: Callable[[int], Any] = os._exit) -> None:
        self._limit, self._end = limit, end
        self._lock = threading.Lock()
        self._running = 0
        self._last = time.monotonic()

    def note(self, *, running: int = 0) -> None:
        """Record a sign of life. ``running`` is 1 when a task begins and -1 when it ends."""
        with self._lock:
            self._last = time.monotonic()
            self._running += running

    def look(self, now: float) -> None:
        """End the process if it is stuck. ``now`` is in the seconds of time.monotonic()."""
        with self._lock:
            limit = self._limit * (HANGING if self._running else 1)
            is_stuck = now - self._last > limit
        if is_stuck:
            logger.error("No tick has come for too long, so this process ends", seconds=round(limit))
            self._end(EXIT_CODE)

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK)
            self.look(time.monotonic())


def watch_this_process() -> None:
    """Connect a watchdog to Celery's signals. It starts when a worker is ready or beat starts."""
    shortest = min(settings.SWEEP_INTERVAL, settings.ALERT_INTERVAL, settings.AUDIT_INTERVAL)
    dog = Watchdog(limit=max(INTERVALS * shortest, settings.WATCHDOG_SECONDS))
    for signal in (signals.worker_ready, signals.beat_init):
        signal.connect(lambda **kwargs: dog.start(), weak=False)
    signals.task_prerun.connect(lambda **kwargs: dog.note(running=1), weak=False)
    signals.task_postrun.connect(lambda **kwargs: dog.note(running=-1), weak=False)
    signals.after_task_publish.connect(lambda **kwargs: dog.note(), weak=False)
