"""``make bench-token``: the cost of a token request, compared with the minimum that the same server allows.

Three things are called in turns, in one run on one database: the floor (benchmarks/token_floor.py: no framework, one
SQL statement, one decryption), the token request, and an empty Django view behind the portal's middleware. For each, it
prints requests per second, median and 99th percentile in milliseconds, the CPU time of web and database per request,
and ratios to the floor.

The exit code is 1 if the token request reaches less than half of the floor's requests per second, or if its 99th
percentile is more than three times the floor's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta

import django
import psutil

from benchmarks.stage import Stage, served
from portal.processes import Process
from portal.sandbox.process import free_port

LOWEST_RATIO, HIGHEST_P99 = 0.5, 3.0  # relative to the floor
CONNECTIONS = 200
VIEWS = ("floor", "token call", "empty")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, in turns (default 3)")
    parser.add_argument("--workers", type=int, default=1, help="web processes (default 1)")
    parser.add_argument("--callers", type=int, default=16, help="callers at the same time (default 16)")
    options = parser.parse_args()
    stage = Stage()
    try:
        key, numbers = prepare(stage)
        tokens = [f"/api/v1/connections/{number}/token" for number in numbers]
        portal = serve(stage, "portal.server", options.workers)
        floor = serve(stage, "benchmarks.token_floor", options.workers)
        views = {"floor": View(*floor, tokens), "token call": View(*portal, tokens), "empty": View(*portal, ["/empty"])}
        measured = asyncio.run(rounds(stage, key, views, options))
    finally:
        stage.close()
    return report(measured, options)


def prepare(stage: Stage) -> tuple[str, list[int]]:
    """Fill the database: one person, one key, and CONNECTIONS connections with tokens that outlast the run."""
    os.environ.update(stage.environment)
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from connections.models import AppConsent, AppRegistration, Connection, Tenant, User
    from connections.services.api_keys import api_keys

    call_command("migrate", verbosity=0)
    now = timezone.now()
    bob = User.objects.create_user("bob")
    tenant = Tenant.objects.create(name="Contoso", environment="sandbox", directory_id="contoso.example")
    app = AppRegistration.objects.create(
        name="App", tenant=tenant, environment=tenant.environment, client_id="0" * 36, verified_at=now
    )
    consent = AppConsent.objects.create(app_registration=app, tenant=tenant)
    Connection.objects.bulk_create(
        Connection(
            name=f"Connection {number}",
            app_registration=app,
            tenant=tenant,
            app_consent=consent,
            owner=bob,
            authentication_type="authorization_code",
            status=Connection.Status.ACTIVE,
            granted_scopes="Mail.Read openid profile email",
            refresh_token=f"1.{number}",
            access_token="eyJ0eXAi." + "x" * 2000,
            expires_at=now + timedelta(hours=2),
            token_version=1,
        )
        for number in range(CONNECTIONS)
    )
    _, text = api_keys.issue(
        bob, name="Robot", scopes=["token:read"], expires_at=now + timedelta(days=1), actor=bob, now=now
    )
    return text, list(Connection.objects.values_list("pk", flat=True))


def serve(stage: Stage, module: str, workers: int) -> tuple[int, Process]:
    """Start the floor, or the portal as in docs/operating.md with an additional empty view (benchmarks/token_views.py)."""
    port = free_port()
    settings = {"DJANGO_SETTINGS_MODULE": "benchmarks.token_settings", "API_RATE_LIMIT": "100000000"}
    web = stage.launch(module, module, BIND=f"127.0.0.1:{port}", WEB_WORKERS=str(workers), **settings)
    web.wait_until(lambda: served(f"http://127.0.0.1:{port}/healthz"), seconds=60)
    return port, web


# --- Calling --------------------------------------------------------------------------------------


@dataclass
class View:
    """One of the things that are called, and how long its calls took."""

    port: int
    process: Process
    paths: list[str]
    took: list[list[float]] = field(default_factory=list)  # seconds of each call, by round
    cpu: float = 0.0  # seconds of web and database in all rounds


async def rounds(stage: Stage, key: str, views: dict[str, View], options: argparse.Namespace) -> dict[str, View]:
    """Call the views in turns, so that a busy machine affects all of them."""
    for view in views.values():
        await one_round(view.port, key, view.paths, options.callers, 2.0)  # warm up
    for number in range(1, options.rounds + 1):
        for name, view in views.items():
            before = cpu(view.process) + cpu(stage.postgres.process)
            took = await one_round(view.port, key, view.paths, options.callers, options.seconds)
            view.cpu += cpu(view.process) + cpu(stage.postgres.process) - before
            view.took.append(took)
            print(f"round {number}  {name:<12} {len(took) / options.seconds:8.0f} requests/s", flush=True)
    return views


def cpu(process: Process) -> float:
    """Return the processor seconds of a process and all its children."""
    root = psutil.Process(process.pid)
    times = [member.cpu_times() for member in [root, *root.children(recursive=True)]]
    return float(sum(time.user + time.system for time in times))


async def one_round(port: int, key: str, paths: list[str], callers: int, seconds: float) -> list[float]:
    """Let every caller send requests continuously on a persistent connection."""
    end = time.monotonic() + seconds
    got = await asyncio.gather(*(caller(port, key, paths[place::callers] or paths, end) for place in range(callers)))
    return [duration for calls in got for duration in calls]


async def caller(port: int, key: str, paths: list[str], end: float) -> list[float]:
    """Return the seconds of each of this caller's calls. Raises SystemExit for any response but 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took: list[float] = []
    try:
        while (began := time.monotonic()) < end:
            path = paths[len(took) % len(paths)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:20]:
                raise SystemExit(f"{path} answered {head[:60]!r}: nothing to compare.")
            lower = head.lower()
            length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.monotonic() - began)
    finally:
        writer.close()
    return took


# --- Report ---------------------------------------------------------------------------------------


def report(views: dict[str, View], options: argparse.Namespace) -> int:
    """Print medians over the rounds; returns the exit code."""
    floor = summary(views["floor"], options.seconds)
    print(
        f"\n{options.callers} callers, {options.workers} web processes; {options.rounds} rounds of {options.seconds:g} s"
    )
    print(f"  {'':<12} {'requests/s':>11} {'÷ floor':>8} {'p50 ms':>8} {'p99 ms':>8} {'÷ floor':>8} {'CPU µs':>8}")
    for name in VIEWS:
        rate, middle, slow, used = summary(views[name], options.seconds)
        line = f"{rate:>11.0f} {rate / floor[0]:>8.2f} {middle:>8.1f} {slow:>8.1f} {slow / floor[2]:>8.2f} {used:>8.0f}"
        print(f"  {name:<12} {line}")
    rate, _, slow, _ = summary(views["token call"], options.seconds)
    fine = rate / floor[0] >= LOWEST_RATIO and slow / floor[2] <= HIGHEST_P99
    print("  the token call is " + ("within the limits" if fine else "BEYOND the limits"))
    return int(not fine)


def summary(view: View, seconds: float) -> tuple[float, float, float, float]:
    """Return requests per second, median and 99th percentile in milliseconds, and microseconds of CPU per call."""
    every = sorted(duration for calls in view.took for duration in calls)
    rate = statistics.median(len(calls) for calls in view.took) / seconds
    return rate, every[len(every) // 2] * 1000, every[len(every) * 99 // 100] * 1000, view.cpu / len(every) * 1e6


if __name__ == "__main__":
    sys.exit(main())
