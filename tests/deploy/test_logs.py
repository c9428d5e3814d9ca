"""Every line that a process of the portal writes is one JSON object, from its start to its end."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.cache import cache

from connections.services.operations import health
from portal import access_log
from portal.processes import Process, stop_all
from tests.conftest import portal_environment
from tests.environment import ROOT

pytestmark = pytest.mark.only_on("sqlite")

WORKER = ["celery", "-A", "portal", "worker", "-P", "threads", "-c", "4", "--without-mingle", "--without-gossip"]
BEAT = ["celery", "-A", "portal", "beat"]


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Return the lines of the log; fails if one isn't a JSON object with time, level and logger."""
    written = process.log.read_text().splitlines()
    assert [line for line in written if not line.startswith("{")] == []
    lines = [json.loads(line) for line in written]
    assert lines
    for line in lines:
        assert {"event", "timestamp", "level", "logger"} <= line.keys(), line
    return lines


def get(url: str, **headers: str) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("web_workers", ["1", "2"])
def test_the_web_process_writes_json_with_request_id_and_the_real_address(
    web_workers: str, start_process: Callable[..., Process]
) -> None:
    web = start_process("web", ["portal.server"], BIND="127.0.0.1:0", TRUSTED_PROXIES="1", WEB_WORKERS=web_workers)
    web.wait_for_line("Listening at", seconds=60)
    (port,) = re.findall(r"127\.0\.0\.1:(\d+) ", web.log.read_text())
    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"http://localhost:{port}/api/v1/me?code=secret", **forwarded)
    request_id = refused.value.headers["X-Request-ID"]
    refused.value.close()
    get(f"http://localhost:{port}/healthz").close()
    web.wait_for_line('"logger": "access"', seconds=20)
    web.stop(seconds=20)
    access = [line for line in lines_of(web) if line["logger"] == "access"]
    assert [(line["event"], line["client"], line["status"]) for line in access] == [
        ("GET /api/v1/me", "198.51.100.7", 401)
    ]
    assert access[0]["request_id"] == request_id


@pytest.mark.slow
def test_worker_and_beat_write_json_and_are_silent_about_ticks(start_process: Callable[..., Process]) -> None:
    cache.delete(health.LAST_SWEEP)
    worker = start_process("worker", WORKER)
    beat = start_process("beat", BEAT, SWEEP_INTERVAL="0.2")
    worker.wait_for_line(" ready.", seconds=60)
    worker.wait_until(lambda: cache.get(health.LAST_SWEEP) is not None, seconds=60)
    time.sleep(1)  # more ticks
    stop_all([worker, beat], seconds=20)
    for process in (worker, beat):
        events = [line["event"] for line in lines_of(process)]
        assert not [event for event in events if "Task connections" in event or "Sending due task" in event]
    assert "beat: Starting..." in [line["event"] for line in lines_of(beat)]


@pytest.mark.slow
def test_a_worker_at_debug_names_each_tick(start_process: Callable[..., Process]) -> None:
    worker = start_process("worker", WORKER, LOG_LEVEL="DEBUG")
    beat = start_process("beat", BEAT, SWEEP_INTERVAL="0.2")
    worker.wait_for_line("succeeded in", seconds=60)
    stop_all([worker, beat], seconds=20)
    done = [line for line in lines_of(worker) if "succeeded in" in line["event"]]
    assert {line["level"] for line in done} == {"debug"}


@pytest.mark.parametrize("arguments", [["portal.server"], WORKER, BEAT], ids=["web", "worker", "beat"])
def test_a_process_that_cannot_start_says_so_in_one_line(arguments: list[str]) -> None:
    environment = portal_environment(SECRET_KEY="", FIELD_ENCRYPTION_KEYS="hunter2")
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode != 0
    (line,) = process.stderr.splitlines()
    assert "SECRET_KEY is missing" in json.loads(line)["event"]
    assert "hunter2" not in line
    assert process.stdout == ""


def test_the_access_log_writes_whole_lines_of_many_requests_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=writes.append))
    lines = access_log._Lines()
    expected = [f"{number} {'x' * 200}\n" for number in range(64)]

    async def write_all() -> None:
        for line in expected:
            lines.write(line)
        await asyncio.sleep(0)

    asyncio.run(write_all())
    assert "".join(writes) == "".join(expected)
    assert len(writes) == 4
    assert all(text.endswith("\n") and len(text) <= 4096 for text in writes)
