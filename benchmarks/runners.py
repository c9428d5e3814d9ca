"""Whoever refreshes in ``make bench``: the portal's sweep, and what it is compared with. Each is a real process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from benchmarks import grants
from benchmarks.stage import ROOT, Stage
from benchmarks.token_server import ACCOUNT
from portal.sandbox import seed

Work = Callable[[], None]
LONGEST = 300.0  # seconds for one round


class Runner(Protocol):
    """Refreshes rows in a process with this ``pid``, whose processor time is counted."""

    pid: int

    def prepare(self, count: int) -> None: ...
    def run(self, count: int) -> None:
        """Refresh so many rows, and return when all are stored."""

    def stored(self) -> int:
        """Return how many rows have new tokens since ``prepare``."""

    def close(self) -> None: ...


class Sweep:
    """The portal's sweep, in a real worker."""

    def __init__(self, stage: Stage) -> None:
        self._worker = stage.worker()
        self.pid = self._worker.pid

    def prepare(self, count: int) -> None:
        from django.utils import timezone

        from connections.models import Connection

        self._began = timezone.now()
        due = list(Connection.objects.order_by("pk").values_list("pk", flat=True)[:count])
        Connection.objects.filter(pk__in=due).update(refresh_after=self._began - timedelta(seconds=1))

    def run(self, count: int) -> None:
        """Start one sweep and wait for the line that its end leaves in the log, so as not to load the database."""
        began, before = time.time(), self._ended()
        send_tick()
        while self._ended() == before:
            wait_a_moment(began)

    def _ended(self) -> int:
        return self._worker.log.read_bytes().count(b'"event": "sweep"')

    def stored(self) -> int:
        from connections.models import Connection

        return Connection.objects.filter(refreshed_at__gte=self._began, status=Connection.Status.ACTIVE).count()

    def close(self) -> None:
        self._worker.stop()


class Loop:
    """A module of this package that refreshes rows of ``bench_grant`` when it is told how many (benchmarks/loop.py)."""

    def __init__(self, stage: Stage, module: str) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}"],
            cwd=ROOT,
            env=stage.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self._expect("ready")

    def prepare(self, count: int) -> None:
        from django.utils import timezone

        self._began = timezone.now()

    def run(self, count: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        self._expect("done")

    def stored(self) -> int:
        return count_grants(self._began)

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != word:
            raise SystemExit(f"{self._name} failed (it said {line!r} instead of {word!r}).")


class SocialAuthLoop(Loop):
    """social-auth's own refresh, on its own table."""

    def stored(self) -> int:
        from social_django.models import UserSocialAuth

        return int(UserSocialAuth.objects.filter(modified__gte=self._began).count())


class TaskPerConnection:
    """A worker that gets one task for each row."""

    def __init__(self, stage: Stage) -> None:
        command = ["celery", "-A", "benchmarks.task_per_connection", "worker", "-Q", "benchmark", "-P", "threads"]
        self._worker = stage.launch("tasks", *command, "-c", "4", "--without-mingle", "--without-gossip")
        self._worker.wait_for_line(" ready.", seconds=30)
        self.pid = self._worker.pid

    def prepare(self, count: int) -> None:
        from django.utils import timezone

        self._began = timezone.now()
        with grants.connect() as connection:
            rows = connection.execute("SELECT id FROM bench_grant ORDER BY id LIMIT %s", (count,)).fetchall()
        self._pks = [pk for (pk,) in rows]

    def run(self, count: int) -> None:
        from benchmarks.task_per_connection import refresh

        sent = time.time()
        for pk in self._pks:
            refresh.delay(pk)
        while self.stored() < count:
            wait_a_moment(sent)

    def stored(self) -> int:
        return count_grants(self._began)

    def close(self) -> None:
        self._worker.stop()


def sweep_once() -> None:
    """Start a sweep while nothing is due, and wait until it has ended."""
    from django.core.cache import cache

    from connections.services.operations.health import LAST_SWEEP

    cache.delete(LAST_SWEEP)
    began = time.time()
    send_tick()
    while cache.get(LAST_SWEEP) is None:
        wait_a_moment(began)


def send_tick() -> None:
    from connections.tasks import sweep

    sweep.delay()


def wait_a_moment(since: float) -> None:
    """Raises SystemExit if a round has taken too long ``since`` then."""
    if time.time() - since > LONGEST:
        raise SystemExit("A round did not end within five minutes.")
    time.sleep(0.05)


def count_grants(since: datetime) -> int:
    with grants.connect() as connection:
        row = connection.execute("SELECT count(*) FROM bench_grant WHERE refreshed_at >= %s", (since,)).fetchone()
    assert row is not None
    return int(row[0])


def create_connections(count: int) -> None:
    """Create so many active connections, which are not due, of one app registration in one tenant."""
    from django.utils import timezone

    from connections.models import AppConsent, AppRegistration, Connection, Tenant, User
    from connections.models.app_registrations import AppCredential

    bob = User.objects.create_user("bob")
    tenant = Tenant.objects.create(
        name="Contoso", environment="sandbox", directory_id=seed.CONTOSO, tid=seed.CONTOSO, created_by=bob
    )
    now = timezone.now()
    app = AppRegistration.objects.create(
        name="Contoso Connections",
        tenant=tenant,
        environment=tenant.environment,
        client_id=seed.CONNECTIONS_APP,
        verified_at=now,
    )
    consent = AppConsent.objects.create(app_registration=app, tenant=tenant)
    AppCredential.objects.create(app_registration=app, kind="secret", secret=seed.CONNECTIONS_SECRET)
    connections = (
        Connection(
            name=f"Connection {number}",
            app_registration=app,
            tenant=tenant,
            app_consent=consent,
            owner=bob,
            authentication_type="authorization_code",
            status=Connection.Status.ACTIVE,
            scopes="Mail.Read offline_access",
            refresh_token=refresh_token(number),
            access_token=f"eyJ0eXAi.{number}",
            expires_at=now + timedelta(hours=1),
            account_tid=seed.CONTOSO,
            account_oid=seed.fixed_id("ada"),
            account_username=ACCOUNT,
            account_name=ACCOUNT,
            refreshed_at=now,
            refresh_after=now + timedelta(hours=1),
            token_version=1,
        )
        for number in range(count)
    )
    Connection.objects.bulk_create(connections, batch_size=2000)


def create_others(count: int) -> None:
    """Create the same grants for those that the sweep is compared with."""
    from social_django.models import UserSocialAuth

    from connections.models import User

    tokens = [refresh_token(number) for number in range(count)]
    grants.create(tokens)
    bob = User.objects.get()
    UserSocialAuth.objects.bulk_create(
        UserSocialAuth(
            user=bob,
            provider="azuread-v2-tenant-oauth2",
            uid=f"ada-{number}",
            extra_data={"access_token": f"eyJ0eXAi.{number}", "refresh_token": token, "token_type": "Bearer"},
        )
        for number, token in enumerate(tokens)
    )


def refresh_token(number: int) -> str:
    return f"1.{'A' * 700}-{number}"
