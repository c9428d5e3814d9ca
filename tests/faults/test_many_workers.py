"""Several workers and several beats at once: no work is done twice, and none is lost if one of them is killed."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from connections.models import Connection
from portal.processes import Process
from portal.sandbox.client import Control
from tests import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def due_connections(sandbox: Control, count: int) -> list[str]:
    """Create ``count`` due connections, each with its own grant; returns the grants' fingerprints."""
    grants = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=count)
    first = factories.make_connection(name="0", refresh_token=grants["refresh_tokens"][0])
    shared = {
        field.attname: getattr(first, field.attname)
        for field in Connection._meta.concrete_fields
        if not field.primary_key and field.name != "identity"
    }
    others = [
        Connection(**{**shared, "name": str(number), "refresh_token": token})
        for number, token in enumerate(grants["refresh_tokens"][1:], start=1)
    ]
    Connection.objects.bulk_create(others, batch_size=200)
    Connection.objects.update(refresh_after=timezone.now() - timedelta(minutes=1), refreshed_at=None)
    sandbox.clear_calls()
    return list(grants["fingerprints"])


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    """Poll until it is true, because other processes do the work."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def refreshed() -> int:
    return Connection.objects.exclude(refreshed_at=None).count()


def test_two_workers_and_two_beats_call_the_token_endpoint_once_per_connection(
    sandbox: Control, celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> None:
    fingerprints = due_connections(sandbox, 2000)

    celery_worker(n=2, SWEEP_BATCH="100")
    celery_beat(n=2, SWEEP_INTERVAL="0.5")
    wait_until(lambda: refreshed() == 2000, seconds=120)

    calls = sandbox.calls(limit=0)
    per_grant = calls["by_grant"][factories.CLIENT_ID]
    assert calls["by_endpoint"]["token"] == 2000
    assert set(per_grant) == set(fingerprints)
    assert set(per_grant.values()) == {1}
    assert set(Connection.objects.values_list("token_version", flat=True)) == {2}


def test_a_worker_killed_in_the_middle_loses_no_grant(
    sandbox: Control, celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> None:
    due_connections(sandbox, 60)
    sandbox.weather("slow", where="token", delay_ms=300)
    (victim,) = celery_worker(n=1, SWEEP_BATCH="60", SWEEP_IN_FLIGHT="4")
    celery_beat(n=1, SWEEP_INTERVAL="0.5")
    wait_until(lambda: sandbox.calls(limit=0)["by_endpoint"].get("token", 0) >= 5, seconds=30)
    victim.popen.kill()
    assert refreshed() < 60

    sandbox.weather("normal")
    Connection.objects.filter(refreshed_at=None).update(refresh_after=timezone.now())  # the lease has expired
    celery_worker(n=1)
    wait_until(lambda: refreshed() == 60, seconds=60)
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}
