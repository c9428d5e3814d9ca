"""The encryption key is changed while web processes and workers run and tokens are fetched. Nothing fails."""

import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from benchmarks.key_rotation import Callers, KeyChange, wait_until, write_keys
from connections import keys
from connections.models import Connection, Incident, RunningProcess, User
from connections.services.operations import secret_check
from portal.processes import Process
from portal.sandbox.client import Control
from portal.sandbox.process import free_port
from tests import factories
from tests.stored_secrets import new_key, using_keys

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
CONNECTIONS = 150
OLD, NEW = new_key(), new_key()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A key file with the old key, which this process uses, too."""
    path = tmp_path / "keys"
    write_keys(path, OLD)
    with using_keys(OLD):
        yield path


@pytest.fixture
def started(
    file: Path, start_process: Callable[..., Process], celery_worker: Callable[..., list[Process]]
) -> Callable[..., tuple[int, list[Process]]]:
    """``started()`` starts two web processes, two workers and beat on the key file; returns the port and all of them."""

    def start() -> tuple[int, list[Process]]:
        port = free_port()
        environment = {"FIELD_ENCRYPTION_KEYS_FILE": str(file), "API_RATE_LIMIT": "0", "SWEEP_INTERVAL": "1"}
        web = start_process("web", ["portal.server"], BIND=f"127.0.0.1:{port}", WEB_WORKERS="2", **environment)
        beat = start_process("beat", ["celery", "-A", "portal", "beat"], **environment)
        workers = celery_worker(n=2, **environment)
        wait_until(lambda: RunningProcess.objects.count() == 5, seconds=60)
        return port, [web, beat, *workers]

    return start


def test_a_key_is_changed_under_load_without_a_failed_call(
    sandbox: Control, bob: User, file: Path, started: Any, start_process: Callable[..., Process]
) -> None:
    grants = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=CONNECTIONS)
    app, now = factories.make_app_registration(), timezone.now()
    for number, token in enumerate(grants["refresh_tokens"]):
        due = now + timedelta(seconds=number / 10)
        factories.make_connection(
            name=str(number), owner=bob, app_registration=app, refresh_token=token, refresh_after=due
        )
    _, key = factories.make_key(bob)
    port, processes = started()

    def manage(*arguments: str) -> Process:
        return start_process("manage", ["manage", *arguments], FIELD_ENCRYPTION_KEYS_FILE=str(file))

    change = KeyChange(file, processes, manage, OLD, NEW)
    callers = Callers(port, key, list(Connection.objects.values_list("pk", flat=True)))
    try:
        change.run(batch=5)
    finally:
        callers.stop()

    assert set(callers.statuses) == {200}
    assert callers.statuses[200] > 50
    with using_keys(NEW):
        count = secret_check.count(now=timezone.now())
    assert (count.unreadable, count.altered) == ({}, {})
    assert set(count.by_key) == {keys.key_id(NEW)}
    assert not Incident.objects.exists()


def test_a_key_file_that_cannot_be_used_changes_nothing(
    bob: User, file: Path, start_process: Callable[..., Process]
) -> None:
    port = free_port()
    web = start_process("web", ["portal.server"], BIND=f"127.0.0.1:{port}", FIELD_ENCRYPTION_KEYS_FILE=str(file))
    wait_until(RunningProcess.objects.exists, seconds=60)
    for text in (b"", OLD[:-9].encode(), b"\xff\xfe"):
        file.write_bytes(text)
        for _ in range(50):  # also while the process still handles the one before
            web.popen.send_signal(signal.SIGHUP)
    web.wait_for_line("could not be read again", seconds=60)
    assert not web.has_ended()
    assert RunningProcess.objects.get().key_ids == [keys.key_id(OLD)]
    assert OLD[:-9] not in web.log.read_text()
    write_keys(file, NEW, OLD)
    web.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: RunningProcess.objects.get().key_ids == [keys.key_id(NEW), keys.key_id(OLD)])
    web.stop()
    assert not RunningProcess.objects.exists()
