"""Clocks that differ lose no tick, are measured and shown, and do not keep anybody from signing in."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import time_machine
from django.conf import settings
from django.core.cache import cache
from django.db import connection as database
from django.test import Client

from connections.microsoft import server_clock
from connections.services.api_keys import rate_limit
from connections.services.operations import clocks, health
from portal import beat, watchdog
from portal.processes import Process
from portal.watchdog import EXIT_CODE, Watchdog

WORKER = ["celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip"]


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Iterator["redis.Redis"]:
    monkeypatch.setattr(clocks._Due, "at", 0.0)
    monkeypatch.setattr(server_clock._Last, "ahead", None)
    monkeypatch.setattr(server_clock._Last, "looked_at", -server_clock.INTERVAL)
    rate_limit.client.cache_clear()
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


@pytest.mark.slow
def test_a_worker_whose_clock_is_ahead_sweeps_and_readyz_says_so(
    valkey: "redis.Redis", start_process: Callable[..., Process], celery_beat: Callable[..., list[Process]]
) -> None:
    worker = start_process("ahead", ["tests.ahead", "20", *WORKER])
    worker.wait_for_line(" ready.", seconds=30)
    celery_beat()
    worker.wait_until(lambda: cache.get(health.LAST_SWEEP) is not None, seconds=20)
    assert "Discarding revoked task" not in worker.log.read_text()
    worker.wait_for_line("A clock differs", seconds=20)
    detail = Client().get("/readyz").json()["parts"]["clocks"]["detail"]
    assert re.search(r"worker on \S+ is (1[5-9]|2\d) seconds ahead", detail), detail
    assert 'portal_clock_ahead_seconds{clock="worker on ' in Client().get("/metrics").content.decode()


@pytest.mark.slow
def test_ticks_do_not_pile_up_without_a_worker(
    valkey: "redis.Redis", celery_beat: Callable[..., list[Process]]
) -> None:
    (process,) = celery_beat(SWEEP_INTERVAL="0.01")
    process.wait_for_line("No worker takes the ticks", seconds=30)
    time.sleep(0.5)  # beat goes on ticking
    queue = f"{settings.REDIS_PREFIX}:{settings.CELERY_TASK_DEFAULT_QUEUE}"
    assert valkey.llen(queue) == beat.MOST_WAITING


@pytest.mark.django_db
def test_a_clock_that_differs_is_warned_of(valkey: "redis.Redis", caplog: pytest.LogCaptureFixture) -> None:
    with time_machine.travel(datetime.now(UTC) - timedelta(seconds=30)):
        clocks.report("worker")
    readings = {clock.name.partition(" ")[0]: clock for clock in clocks.readings()}
    assert readings["worker"].ahead == pytest.approx(-30, abs=2)
    assert str(readings["worker"]).endswith("is 30 seconds behind")
    assert [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ("the" in readings) == (database.vendor == "postgresql")


@pytest.mark.django_db
def test_microsofts_clock_is_compared_by_its_answers(valkey: "redis.Redis") -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    server_clock.note(f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nDate: {date}\r\n\r\n".encode())
    clocks.report("worker")
    microsoft = next(clock for clock in clocks.readings() if clock.name == "Microsoft")
    assert microsoft.ahead == pytest.approx(90, abs=2)
    assert "Microsoft is 9" in Client().get("/readyz").json()["parts"]["clocks"]["detail"]


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"Date: yesterday\r\n", b"date: \xff\r\n"])
def test_an_answer_without_a_date_tells_nothing(valkey: "redis.Redis", head: bytes) -> None:
    server_clock.note(head)
    assert server_clock.seconds_ahead() is None


@pytest.mark.django_db
def test_equal_clocks_are_told_to_be_equal(valkey: "redis.Redis") -> None:
    assert Client().get("/readyz").json()["parts"]["clocks"] == {"ok": True, "detail": "differ by less than 5 seconds"}


def test_a_process_without_ticks_ends_later_if_a_task_is_running() -> None:
    ended: list[Any] = []
    dog = Watchdog(limit=600, end=ended.append)
    now = time.monotonic()
    dog.look(now + 599)
    assert ended == []
    dog.note(running=1)
    dog.look(now + 3000)
    assert ended == []
    dog.note(running=-1)
    dog.look(time.monotonic() + 601)
    assert ended == [EXIT_CODE]


def test_a_process_whose_tasks_all_hang_ends() -> None:
    ended: list[Any] = []
    dog = Watchdog(limit=600, end=ended.append)
    dog.note(running=1)
    dog.look(time.monotonic() + watchdog.HANGING * 600 + 1)
    assert ended == [EXIT_CODE]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), [("worker", WORKER), ("beat", ["celery", "-A", "portal", "beat"])])
def test_a_process_that_hears_nothing_ends_and_says_why(
    start_process: Callable[..., Process], tmp_path: Path, name: str, command: list[str]
) -> None:
    """The worker gets no ticks, and beat cannot send any."""
    broker = {} if name == "worker" else {"REDIS_URL": f"unix://{tmp_path}/nothing.sock"}
    intervals = dict.fromkeys(("SWEEP_INTERVAL", "ALERT_INTERVAL", "AUDIT_INTERVAL"), "0.05")
    process = start_process(name, command, WATCHDOG_SECONDS="1", **intervals, **broker)
    assert process.popen.wait(90) == EXIT_CODE
    assert "No tick has come for too long" in process.last_lines()
