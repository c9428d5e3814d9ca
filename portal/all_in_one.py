"""``python -m portal.all_in_one``: web, worker and beat for a small organisation, in two thirds of the memory.

Everything is imported once, before the three processes are forked, so that they share it. One that ends is started
again; SIGHUP reaches all of them. docs/operating.md says when to use it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from portal import logs

logger = logging.getLogger(__name__)

# What the three processes import sooner or later.
_MODULES = (
    "portal.asgi", "portal.server", "portal.beat", "portal.urls", "connections.tasks", "connections.urls", "uvloop",
    "celery.bin.celery", "celery.apps.worker", "celery.apps.beat", "celery.concurrency.thread", "celery.worker.consumer",
    "celery.worker.components", "celery.worker.strategy", "kombu.transport.redis", "django.core.cache.backends.redis",
)  # fmt: skip
_WORKER = ("worker", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_AGAIN_AFTER = 5.0  # seconds until a process that has ended is started again
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the three processes until SIGTERM or SIGINT; return the exit code."""
    logs.start()
    gc.disable()
    for name in _MODULES:
        import_module(name)
    from portal.warm_up import warm_up

    warm_up()
    # A collection would write to, and so copy, all that was imported; memory that it frees would be written to later.
    gc.freeze()
    return Group({"web": _web, "worker": lambda: _celery(*_WORKER), "beat": lambda: _celery("beat")}).run()


def _web() -> None:
    from portal import server

    server.serve()


def _celery(*arguments: str) -> None:
    from portal.celery import app

    sys.argv = ["celery", *arguments]
    app.start(list(arguments))


class Group:
    """Processes that are forked from this one. ``programs`` are what they run, by name."""

    def __init__(self, programs: dict[str, Callable[[], None]], *, again_after: float = _AGAIN_AFTER) -> None:
        self._programs, self._again_after = programs, again_after
        self._running: dict[int, str] = {}  # names by process id
        self._is_stopping = False

    def run(self) -> int:
        """Start all, and start again what ends, until a signal says otherwise. Returns 0."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for number in _SIGNALS:
            signal.signal(number, self._pass_on)
        for name in self._programs:
            self._start(name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        while self._running:
            pid, status = os.wait()
            name = self._running.pop(pid, "")
            if name and not self._is_stopping:
                logger.error("The %s process ended (%s) and is started again.", name, os.waitstatus_to_exitcode(status))
                self._start_again(name)
        return 0

    def _start_again(self, name: str) -> None:
        end = time.monotonic() + self._again_after
        while not self._is_stopping and time.monotonic() < end:
            time.sleep(min(0.2, self._again_after))
        # No signal may come between the question and the fork: its process would not be told.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if not self._is_stopping:
            self._start(name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _start(self, name: str) -> None:
        """Fork the process, which never returns from here.

        Signals must be blocked, so that it does not run this process's handlers.
        """
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = name
            return
        gc.enable()
        _end_with(parent)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._programs[name]()
        sys.exit()  # up through the caller's frames, so that what the process has registered for its end is done

    def _pass_on(self, number: int, frame: object) -> None:
        self._is_stopping |= number != signal.SIGHUP
        for pid in self._running:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number if number == signal.SIGHUP else signal.SIGTERM)


def _end_with(parent: int) -> None:
    """Have Linux stop this process if its parent is killed; elsewhere that is left to the supervisor."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed before
            os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
