"""After a complete journey with real processes, the database, broker and logs contain no secret in clear text."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from django.conf import settings
from django.db import connection as database
from django.utils import timezone

from connections.models import AuditEvent, Connection
from portal.processes import Process
from portal.sandbox.client import Control
from tests import factories, secret_scanner
from tests.environment import run_directory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

CANARY = "1.APlantedRefreshTokenThatMustBeFound_0123456789"


def test_refreshing_connections_leaves_no_secret_in_clear(
    sandbox: Control, celery_worker: Callable[..., list[Process]], celery_beat: Callable[..., list[Process]]
) -> None:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    token = grant["refresh_tokens"][0]
    due = timezone.now() - timedelta(minutes=1)
    kept = factories.make_connection(refresh_token=token, refresh_after=due, refreshed_at=None)
    bad_app = factories.make_app_registration(
        name="Wrong secret", client_id=factories.ROBOTS_CLIENT_ID, secret="sbx8Q~wrong-one-1234"
    )
    factories.make_app_only_connection(app_registration=bad_app, refresh_after=due)

    celery_worker(LOG_LEVEL="DEBUG")
    celery_beat(SWEEP_INTERVAL="0.5", LOG_LEVEL="DEBUG")
    until = time.monotonic() + 30
    while Connection.objects.filter(pk=kept.pk, refreshed_at=None).exists() or not _rejected(bad_app.pk):
        assert time.monotonic() < until, "the sweep did not come"
        time.sleep(0.1)

    now = Connection.objects.get(pk=kept.pk)
    assert now.refresh_token != token, "Microsoft rotated it"
    assert AuditEvent.objects.exists()
    known = [token, now.refresh_token or "", now.access_token or "", factories.CLIENT_SECRET]
    assert secret_scanner.found(known) == []


def test_the_search_itself_finds_what_is_planted(sandbox: Control) -> None:
    connection = factories.make_connection(status_reference=CANARY)
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.lpush("planted", "eyJhbGciOiJub25lIn0.eyJub3RoaW5nIjoiaGVyZSJ9.x")
    log = run_directory() / "logs" / "planted.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"client_secret={factories.CLIENT_SECRET}")
    try:
        places = "\n".join(secret_scanner.found())
    finally:
        client.delete("planted")
        client.close()
        log.unlink()
    assert connection.status_reference == CANARY
    expected = ["broker key b'planted'", "log planted.log"]
    expected += ["database dump", "database file"] if database.vendor == "sqlite" else ["table connections_connection"]
    for place in expected:
        assert place in places


def _rejected(app_pk: int) -> bool:
    return AuditEvent.objects.filter(target_type="AppRegistration", target_id=str(app_pk)).exists()
