"""``make bench-token``: what handing out a token costs, beside an empty view under the same server.

Under the same gunicorn, with the same settings, middleware and database, three views are called in turns: an empty one,
the token call, and the token call as one would write it first (the key and the connection as whole objects with
everything they refer to, the count as a row of its own). Printed are requests per second, the milliseconds of the
median and of the slowest hundredth, and ratios.

Exit code 1 if the token call does less than a twentieth of the empty view's requests per second, or less than the naive one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from datetime import timedelta

import django

from benchmarks.stage import Stage
from benchmarks.sweep import served
from portal.processes import Process
from portal.sandbox.process import free_port

LOWEST_RATIO = 0.05
CONNECTIONS = 200
VIEWS = ("empty", "token call", "naive")


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.token", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, in turns (default 3)")
    parser.add_argument("--callers", type=int, default=16, help="callers at the same time (default 16)")
    options = parser.parse_args()
    stage = Stage()
    try:
        key, numbers = prepare(stage)
        port, web = serve(stage)
        paths = {
            "empty": ["/empty"],
            "token call": [f"/api/v1/connections/{number}/token" for number in numbers],
            "naive": [f"/naive/{number}" for number in numbers],
        }
        found = asyncio.run(rounds(port, key, paths, options))
        web.stop()
    finally:
        stage.close()
    return report(found, options)


def prepare(stage: Stage) -> tuple[str, list[int]]:
    """Fill the database: one person, one key, CONNECTIONS with tokens that last."""
    os.environ.update(stage.environment)
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    from connections.models import AppRegistration, Connection, Tenant, User
    from connections.services.api_keys import api_keys

    call_command("migrate", verbosity=0)
    now = timezone.now()
    bob = User.objects.create_user("bob")
    tenant = Tenant.objects.create(name="Contoso", environment="sandbox", directory_id="contoso.example")
    app = AppRegistration.objects.create(name="App", tenant=tenant, client_id="0" * 36, verified_at=now)
    Connection.objects.bulk_create(
        Connection(
            name=f"Connection {number}",
            app_registration=app,
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


def serve(stage: Stage) -> tuple[int, Process]:
    """The portal as docs/operating.md starts it, with two views more (benchmarks/token_views.py)."""
    port = free_port()
    settings = {"DJANGO_SETTINGS_MODULE": "benchmarks.token_settings", "API_RATE_LIMIT": "100000000"}
    command = ["portal.server"]
    web = stage.launch("web", *command, BIND=f"127.0.0.1:{port}", **settings)
    web.wait_until(lambda: served(f"http://127.0.0.1:{port}/healthz"), seconds=30)
    return port, web


# --- Calling --------------------------------------------------------------------------------------


async def rounds(
    port: int, key: str, paths: dict[str, list[str]], options: argparse.Namespace
) -> dict[str, list[list[float]]]:
    """Seconds of each call, by view and round; the views take turns so that a busy machine hits all."""
    found: dict[str, list[list[float]]] = {name: [] for name in paths}
    for name in paths:
        await one_round(port, key, paths[name], options.callers, 1.0)  # warm
    for number in range(1, options.rounds + 1):
        for name in paths:
            took = await one_round(port, key, paths[name], options.callers, options.seconds)
            found[name].append(took)
            print(f"round {number}  {name:<12} {len(took) / options.seconds:8.0f} requests/s", flush=True)
    return found


async def one_round(port: int, key: str, paths: list[str], callers: int, seconds: float) -> list[float]:
    """Every caller asks again and again on a kept connection."""
    end = time.monotonic() + seconds
    got = await asyncio.gather(*(caller(port, key, paths[place::callers] or paths, end) for place in range(callers)))
    return [took for one in got for took in one]


async def caller(port: int, key: str, paths: list[str], end: float) -> list[float]:
    """Seconds of each of this caller's calls. Raises SystemExit for any answer but 200."""
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


def report(found: dict[str, list[list[float]]], options: argparse.Namespace) -> int:
    """Print medians over the rounds; returns the exit code."""
    rates = {name: statistics.median(len(one) for one in some) / options.seconds for name, some in found.items()}
    print(f"\n{options.callers} callers, one web process; medians of {options.rounds} rounds of {options.seconds:g} s")
    print(f"  {'':<12} {'requests/s':>11} {'÷ empty':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for name in VIEWS:
        every = sorted(took for one in found[name] for took in one)
        middle, slow = every[len(every) // 2] * 1000, every[len(every) * 99 // 100] * 1000
        print(f"  {name:<12} {rates[name]:>11.0f} {rates[name] / rates['empty']:>8.2f} {middle:>8.1f} {slow:>8.1f}")
    ratio, gain = rates["token call"] / rates["empty"], rates["token call"] / rates["naive"]
    fine = ratio >= LOWEST_RATIO and gain >= 1
    print(f"  the token call does {ratio:.2f} of the empty view and {gain:.1f} times the naive one: ", end="")
    print("within the limits" if fine else "BELOW the limits")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
