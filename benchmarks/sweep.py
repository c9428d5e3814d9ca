"""``make bench``: the cost of refreshing connections, and the portal's idle memory.

Measures CPU seconds (user and system) of client and database together for 1,000 refreshes, each from reading
the stored refresh token to having both new tokens stored: our sweep through a real Celery worker, and social-auth's own
refresh loop, in turns, against the same PostgreSQL and the same token endpoint over TLS. This excludes the endpoint
itself (the sandbox) and the broker, which only carries one message per sweep.

Exit code 1 if the sweep costs more than a tenth of the loop, or if web, worker, beat and broker take more than 350 MB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta

import django

from benchmarks.stage import ROOT, Stage, cpu_seconds, memory_mb
from portal.processes import Process
from portal.sandbox import seed
from portal.sandbox.process import free_port

HIGHEST_RATIO = 0.1
HIGHEST_MEMORY_MB = 350
SCOPES = ["Mail.Read", "offline_access", "openid", "profile"]
WARM_UP = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="connections refreshed in a round (default 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, in turns (default 3)")
    options = parser.parse_args()
    stage = Stage()
    try:
        prepare(stage, options.count)
        ratio = report_costs(compare(stage, options.count, options.rounds), options.count)
        total = report_memory(idle_memory(stage))
    finally:
        stage.close()
    return int(ratio > HIGHEST_RATIO or total > HIGHEST_MEMORY_MB)


def prepare(stage: Stage, count: int) -> None:
    """Create the tables, with the same grants as connections and as social-auth's rows."""
    os.environ.update(stage.environment)
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone
    from social_django.models import UserSocialAuth

    from connections.models import AppRegistration, Connection, Tenant, User
    from connections.models.app_registrations import AppCredential

    call_command("migrate", verbosity=0)
    grants = stage.sandbox.control.issue_grant(seed.CONNECTIONS_APP, "ada@contoso.example", SCOPES, count=2 * count)
    tokens = grants["refresh_tokens"]
    bob = User.objects.create_user("bob")
    tenant = Tenant.objects.create(
        name="Contoso", environment="sandbox", directory_id=seed.CONTOSO, tid=seed.CONTOSO, created_by=bob
    )
    app = AppRegistration.objects.create(
        name="Contoso Connections", tenant=tenant, client_id=seed.CONNECTIONS_APP, verified_at=timezone.now()
    )
    AppCredential.objects.create(app_registration=app, kind="secret", secret=seed.CONNECTIONS_SECRET)
    now = timezone.now()
    Connection.objects.bulk_create(
        Connection(
            name=f"Connection {number}",
            app_registration=app,
            owner=bob,
            authentication_type="authorization_code",
            status=Connection.Status.ACTIVE,
            scopes="Mail.Read offline_access",
            refresh_token=token,
            access_token=f"eyJ0eXAi.{number}",
            account_tid=grants["tenant"],
            account_oid=grants["oid"],
            refreshed_at=now,
            refresh_after=now + timedelta(hours=1),
            token_version=1,
        )
        for number, token in enumerate(tokens[:count])
    )
    UserSocialAuth.objects.bulk_create(
        UserSocialAuth(
            user=bob,
            provider="azuread-v2-tenant-oauth2",
            uid=f"ada-{number}",
            extra_data={"access_token": f"eyJ0eXAi.{number}", "refresh_token": token, "token_type": "Bearer"},
        )
        for number, token in enumerate(tokens[count:])
    )
    # So that neither run pays for statistics that the other's writes have made necessary.
    call_sql("VACUUM ANALYZE")


def compare(stage: Stage, count: int, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of every round of our sweep and of social-auth's loop, in turns."""
    runners: dict[str, Sweep | SocialAuthLoop] = {"sweep": Sweep(stage), "social-auth": SocialAuthLoop(stage)}
    costs: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for runner in runners.values():
            measure(stage, runner, min(count, WARM_UP))
        for number in range(1, rounds + 1):
            for name, runner in runners.items():
                cost, took = measure(stage, runner, count)
                costs[name].append(cost)
                print(f"round {number}  {name:<12} {cost:7.2f} CPU-s  {took:6.1f} s", flush=True)
    finally:
        for runner in runners.values():
            runner.close()
    return costs


def measure(stage: Stage, runner: Sweep | SocialAuthLoop, count: int) -> tuple[float, float]:
    """Return CPU seconds and seconds of one round. Raises SystemExit unless every refresh was done exactly once."""
    runner.prepare(count)
    calls = stage.sandbox.control.calls(limit=0)["by_endpoint"].get("token", 0)
    before, began = cpu_seconds(runner.pid, stage.postgres.process.pid), time.monotonic()
    runner.run(count)
    cost, took = cpu_seconds(runner.pid, stage.postgres.process.pid) - before, time.monotonic() - began
    calls_made = stage.sandbox.control.calls(limit=0)["by_endpoint"]["token"] - calls
    if calls_made != count or runner.stored() != count:
        raise SystemExit(
            f"{calls_made} calls and {runner.stored()} stored answers for {count} refreshes: nothing to compare."
        )
    return cost, took


class Sweep:
    """Our sweep, in a real worker."""

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
        """Start one sweep and wait for it to finish, polling the cache so as not to load the database."""
        from django.core.cache import cache

        from connections.services.operations.health import LAST_SWEEP
        from connections.tasks import sweep

        sent = time.time()
        sweep.delay()
        while cache.get(LAST_SWEEP, 0) < sent:
            if time.time() - sent > 300:
                raise SystemExit("The sweep did not end within five minutes.")
            time.sleep(0.05)

    def stored(self) -> int:
        """Return how many connections have new tokens since ``prepare``."""
        from connections.models import Connection

        return Connection.objects.filter(refreshed_at__gte=self._began, status=Connection.Status.ACTIVE).count()

    def close(self) -> None:
        self._worker.stop()


class SocialAuthLoop:
    """The process that runs social-auth's own refresh."""

    def __init__(self, stage: Stage) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.social_auth_loop"],
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
        """Return how many rows have new tokens since ``prepare``."""
        from social_django.models import UserSocialAuth

        return int(UserSocialAuth.objects.filter(modified__gte=self._began).count())

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=10)

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != word:
            raise SystemExit(f"social-auth's loop failed (it said {line!r} instead of {word!r}).")


def call_sql(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)


def idle_memory(stage: Stage) -> dict[str, float]:
    """Return the MB of each process after it has done its work once: one page served, one sweep run."""
    from django.core.management import call_command

    call_command("collectstatic", interactive=False, verbosity=0)  # the page refers to them
    port = free_port()
    web = stage.launch("web", "portal.server", BIND=f"127.0.0.1:{port}")
    worker = stage.worker()
    beat = stage.launch("beat", "celery", "-A", "portal", "beat", SWEEP_INTERVAL="1")
    web.wait_until(lambda: served(f"http://127.0.0.1:{port}/sign-in/"), seconds=30)
    worker.wait_for_line("succeeded in", seconds=30)
    processes: dict[str, Process] = {"web": web, "worker": worker, "beat": beat, "broker": stage.valkey.process}
    return {name: memory_mb(process.pid) for name, process in processes.items()}


def served(url: str) -> bool:
    request = urllib.request.Request(url, headers={"Host": "localhost"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def report_costs(costs: dict[str, list[float]], count: int) -> float:
    """Print the medians per 1,000 refreshes; returns the ratio."""
    medians = {name: statistics.median(values) * 1000 / count for name, values in costs.items()}
    ratio = medians["sweep"] / medians["social-auth"]
    print(
        f"\nCPU-seconds of client and database per 1,000 refreshes (median of {len(costs['sweep'])} rounds of {count})"
    )
    for name, median in medians.items():
        print(f"  {name:<12} {median:7.2f}")
    verdict = "within" if ratio <= HIGHEST_RATIO else "ABOVE"
    print(f"  the sweep costs 1/{1 / ratio:.1f} of social-auth's loop: {verdict} the limit of 1/10")
    return ratio


def report_memory(memory: dict[str, float]) -> float:
    """Print the memory of each process; returns the sum in MB."""
    total = sum(memory.values())
    print("\nIdle memory in MB (PSS: shared pages counted once)")
    for name, size in memory.items():
        print(f"  {name:<12} {size:7.0f}")
    verdict = "within" if total <= HIGHEST_MEMORY_MB else "ABOVE"
    print(f"  together     {total:7.0f}: {verdict} the limit of {HIGHEST_MEMORY_MB}")
    return total


if __name__ == "__main__":
    sys.exit(main())
