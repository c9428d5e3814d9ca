"""A worker that is stopped or killed in the middle of a storm: no grant is lost, and nothing waits longer than its lease."""

import signal
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from connections.models import Connection
from portal.processes import Process
from portal.sandbox.client import Control
from tests.faults.test_many_workers import due_connections, refreshed, wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

COUNT = 120


def token_calls(sandbox: Control) -> int:
    return int(sandbox.calls(limit=0)["by_endpoint"].get("token", 0))


@pytest.fixture
def worker_at_work(
    sandbox: Control, celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> Process:
    """A worker in the middle of many small batches, which follow each other without a pause."""
    due_connections(sandbox, COUNT)
    sandbox.weather("slow", where="token", delay_ms=200)
    (worker,) = celery_worker(n=1, SWEEP_BATCH="10", SWEEP_IN_FLIGHT="4")
    celery_beat(n=1, SWEEP_INTERVAL="0.5")
    wait_until(lambda: refreshed() >= 20, seconds=60)
    return worker


def test_a_worker_that_is_asked_to_stop_loses_no_answer(sandbox: Control, worker_at_work: Process) -> None:
    worker_at_work.popen.send_signal(signal.SIGTERM)
    worker_at_work.popen.wait(30)

    answered = token_calls(sandbox)
    assert refreshed() == answered < COUNT
    assert set(Connection.objects.exclude(refreshed_at=None).values_list("token_version", flat=True)) == {2}
    waiting = Connection.objects.filter(refreshed_at=None)
    assert not waiting.filter(refresh_after__gt=timezone.now()).exists(), "the next worker need not wait for the lease"


def test_a_worker_killed_between_two_batches_loses_no_grant(
    sandbox: Control, worker_at_work: Process, celery_worker: Callable[..., list[Process]]
) -> None:
    worker_at_work.popen.kill()
    worker_at_work.popen.wait(10)

    lease = timezone.now() + timedelta(minutes=5)
    left = Connection.objects.filter(refreshed_at=None)
    assert 0 < left.count() < COUNT
    assert left.filter(refresh_after__gt=timezone.now()).count() <= 40, "only what three batches had claimed"
    assert not left.filter(refresh_after__gt=lease).exists()

    sandbox.weather("normal")
    left.update(refresh_after=timezone.now())  # the lease has expired
    celery_worker(n=1)
    wait_until(lambda: refreshed() == COUNT, seconds=60)
    time.sleep(1)
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}
    assert set(Connection.objects.values_list("token_version", flat=True)) == {2}
