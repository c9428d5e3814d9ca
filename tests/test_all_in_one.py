"""``python -m portal.all_in_one``: web, worker and beat, forked from one process that looks after them."""

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from django.core.cache import cache
from django.utils import timezone

from connections.services.operations import health, running_keys
from portal.processes import Process
from tests.environment import run_directory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def together(start_process: Callable[..., Process]) -> Process:
    cache.delete(health.LAST_SWEEP)
    address = f"unix:{run_directory()}/all.sock"
    return start_process("all", ["portal.all_in_one"], SWEEP_INTERVAL="0.5", BIND=address)


def kinds() -> list[str]:
    return sorted(process.name.split()[0] for process in running_keys.running(now=timezone.now()))


def children(process: Process) -> dict[str, int]:
    """Return the process ids by kind, once all of them have said that they run."""
    process.wait_until(lambda: kinds() == ["beat", "web", "worker"], seconds=60)
    names = [running.name for running in running_keys.running(now=timezone.now())]
    return {name.split()[0]: int(name.rpartition(":")[2]) for name in names}


def test_web_worker_and_beat_run_together_and_stop_together(together: Process) -> None:
    pids = children(together)
    assert {child.pid for child in psutil.Process(together.pid).children()} == set(pids.values())
    together.wait_until(lambda: cache.get(health.LAST_SWEEP) is not None, seconds=60)

    before = {running.name: running.seen_at for running in running_keys.running(now=timezone.now())}
    together.popen.send_signal(signal.SIGHUP)  # reads the encryption keys again, and ends nothing
    together.wait_until(
        lambda: all(running.seen_at > before[running.name] for running in running_keys.running(now=timezone.now())),
        seconds=15,
    )

    together.stop(seconds=40)
    assert together.popen.returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert kinds() == [], "each has said that it ended"


def test_what_is_killed_is_started_again_and_nothing_outlives_the_group(together: Process) -> None:
    pids = children(together)
    os.kill(pids["worker"], signal.SIGKILL)
    together.wait_for_line("The worker process ended (-9)", seconds=10)

    def is_there_again() -> bool:
        now: Any = {child.pid for child in psutil.Process(together.pid).children()}
        return len(now) == 3 and pids["worker"] not in now

    together.wait_until(is_there_again, seconds=20)
    left = psutil.Process(together.pid).children()
    together.popen.kill()
    together.popen.wait(10)
    _, alive = psutil.wait_procs(left, timeout=40)
    assert not alive, "nobody would look after them"
