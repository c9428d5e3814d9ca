"""``make bench ARGS=--storm``: many connections that are due at once, while automations fetch tokens.

Prints how long it takes until all are refreshed, beside the limit's time for as many, the worker's highest memory
beside that of the idle worker, and how long token calls take meanwhile, beside before.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from benchmarks import grants, runners
from benchmarks.key_rotation import Callers
from benchmarks.stage import Stage, goal, memory_mb, served
from portal.processes import Process
from portal.sandbox.process import free_port

HIGHEST_MEMORY = 1.5  # of the idle worker
HIGHEST_LATENCY = 2.0  # of the quiet time
HIGHEST_TIME = 1.5  # of the limit's
QUIET = 5.0  # seconds of token calls before the storm
SAMPLE = 10_000  # refreshes by which the limit's time is measured
CALLED = 100  # connections whose tokens are fetched
LONGEST = 1800.0  # seconds


def measure(stage: Stage, count: int) -> int:
    """Return the exit code: 1 if a goal is missed."""
    runners.create_connections(count)
    limit_seconds = seconds_of_limit(stage, min(count, SAMPLE)) * count / min(count, SAMPLE)
    worker, port = stage.worker(), free_port()
    web = stage.launch("web", "portal.server", BIND=f"127.0.0.1:{port}", API_RATE_LIMIT="0")
    web.wait_until(lambda: served(f"http://127.0.0.1:{port}/sign-in/"), seconds=60)
    runners.sweep_once()
    idle = memory_mb(worker.pid)
    key, numbers = api_key()
    quiet = call_tokens(port, key, numbers, lambda: time.sleep(QUIET))
    memory = PeakMemory(worker)
    began = time.monotonic()
    busy = call_tokens(port, key, numbers, lambda: refresh_all(count))
    took, peak = time.monotonic() - began, memory.stop()
    print(f"\n{count:,} connections due at once")
    print(f"  all refreshed after {took:.0f} s; the limit would take {limit_seconds:.0f} s")
    print(f"  worker: idle {idle:.0f} MB, at most {peak:.0f} MB")
    print(f"  token calls: {len(busy)} in {took:.0f} s; median {quiet_and_busy(quiet, busy)}\n")
    is_good = [
        goal("time until all are refreshed ÷ limit", took / limit_seconds, most=HIGHEST_TIME),
        goal("worker's memory: highest ÷ idle", peak / idle, most=HIGHEST_MEMORY),
        goal("token calls' median: storm ÷ before", median(busy) / median(quiet), most=HIGHEST_LATENCY),
    ]
    return int(not all(is_good))


def seconds_of_limit(stage: Stage, count: int) -> float:
    grants.create([runners.refresh_token(number) for number in range(count)])
    limit = runners.Loop(stage, "limit_loop")
    try:
        limit.run(min(count, 500))
        began = time.monotonic()
        limit.run(count)
        return time.monotonic() - began
    finally:
        limit.close()


def refresh_all(count: int) -> None:
    """Make all connections due, and send a tick every second, as beat would, until all are refreshed."""
    from django.utils import timezone

    from connections.models import Connection

    since = timezone.now()
    Connection.objects.update(refresh_after=since - timedelta(seconds=1))
    end = time.monotonic() + LONGEST
    while Connection.objects.filter(refreshed_at__gte=since).count() < count:
        if time.monotonic() > end:
            raise SystemExit("Not all connections were refreshed within half an hour.")
        runners.send_tick()
        time.sleep(1)
    statuses = set(Connection.objects.values_list("status", flat=True))
    if statuses != {Connection.Status.ACTIVE}:
        raise SystemExit(f"Some connections were flagged: {statuses}.")


def api_key() -> tuple[str, list[int]]:
    """Return a key that may fetch tokens, and the connections it is used for."""
    from django.utils import timezone

    from connections.models import Connection, User
    from connections.services.api_keys import api_keys

    bob, now = User.objects.get(), timezone.now()
    _, key = api_keys.issue(
        bob, name="Robot", scopes=["token:read"], expires_at=now + timedelta(days=1), actor=bob, now=now
    )
    return key, list(Connection.objects.order_by("pk").values_list("pk", flat=True)[:CALLED])


def call_tokens(port: int, key: str, numbers: Sequence[int], meanwhile: runners.Work) -> list[float]:
    """Return the seconds of each token call that was made meanwhile. Raises SystemExit if one was not answered."""
    callers = Callers(port, key, numbers)
    try:
        meanwhile()
    finally:
        callers.stop()
    if set(callers.statuses) != {200}:
        raise SystemExit(f"Token calls were answered with {dict(callers.statuses)}.")
    return callers.seconds


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def quiet_and_busy(quiet: list[float], busy: list[float]) -> str:
    return f"{median(busy) * 1000:.1f} ms; before {median(quiet) * 1000:.1f} ms"


class PeakMemory:
    """Looks at a process's memory several times a second."""

    def __init__(self, process: Process) -> None:
        self._process, self._highest = process, 0.0
        self._must_stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """Return the highest figure in MB."""
        self._must_stop.set()
        self._thread.join()
        return self._highest

    def _watch(self) -> None:
        while not self._must_stop.wait(0.3):
            self._highest = max(self._highest, memory_mb(self._process.pid))
