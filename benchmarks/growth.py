"""``make bench-growth``: what every page and API route costs PostgreSQL in a small and in a large organisation.

Loads the organisation of tests/large_dataset.py, requests every GET of the permission table in process as a member, an
IT admin and an auditor (with searches, filters and the next page), and runs EXPLAIN ANALYZE for each query. Prints the
routes worst first: queries, rows read and SQL milliseconds, small and large.

The exit code is 1 if a route takes more than LIMIT milliseconds or reads more than FACTOR times the rows.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import django
from cryptography.fernet import Fernet

from portal.dev_servers import PostgreSQL, Valkey

if TYPE_CHECKING:
    from tests.growth_probe import Cost

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 50.0  # milliseconds of SQL for one request
FACTOR, FEW_ROWS = 1.5, 5_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000, help="connections in the large organisation")
    parser.add_argument("--small", type=int, default=5_000, help="connections in the small one (default 5,000)")
    parser.add_argument("--only", default="", help="a part of the route's name")
    parser.add_argument("--rows", type=int, default=40, help="lines to print")
    options = parser.parse_args()
    directory = ROOT / ".cache" / "bench" / str(os.getpid())
    directory.mkdir(parents=True)
    server, valkey = PostgreSQL(directory / "postgres"), Valkey(directory / "valkey")
    try:
        prepare(server.create_database("portal"), valkey.url())
        missed = measure(options)
    finally:
        from django.db import connections

        connections.close_all()
        server.stop()
        valkey.stop()
        shutil.rmtree(directory, ignore_errors=True)
    return int(bool(missed))


def prepare(database_url: str, redis_url: str) -> None:
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "FIELD_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PORTAL_URL": "http://localhost:8000",
        "ALLOWED_HOSTS": "localhost,testserver",
        "MICROSOFT_SANDBOX_URL": "http://localhost:9",
        "LOG_LEVEL": "ERROR",
    }
    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    setup_test_environment()  # responses then know their context
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}
    call_command("migrate", verbosity=0)


def measure(options: argparse.Namespace) -> list[str]:
    """Print the table, and return the names of routes over a limit."""
    from tests import factories, full_dataset, large_dataset

    people = {name: factories.make_person(name) for name in ("alice", "bob", "carol", "dave")}
    world = full_dataset.relate(full_dataset.make(people))
    full_dataset.make_elsewhere()
    costs: list[dict[str, Cost]] = []
    for size, after in ((options.small, 0), (options.connections, options.small)):
        began = time.monotonic()
        large_dataset.fill(world, size, after=after)
        loaded = time.monotonic()
        costs.append(probe(world, options.only))
        print(f"{size:,} connections: loaded in {loaded - began:.0f} s, {len(costs[-1])} requests", flush=True)
    small, large = costs
    missed = []
    print(f"{'route, reader':<66}{'queries':>10}{'rows read':>20}{'SQL ms':>16}")
    for name, cost in sorted(large.items(), key=lambda item: -item[1].milliseconds):
        before = small.get(name, cost)
        is_over = cost.milliseconds > LIMIT or cost.rows > FACTOR * before.rows + FEW_ROWS
        if is_over:
            missed.append(name)
        if is_over or options.rows > 0:
            options.rows -= 1
            print(
                f"{name:<66}{before.queries:>5}{cost.queries:>5}{before.rows:>10,}{cost.rows:>10,}"
                f"{before.milliseconds:>8.0f}{cost.milliseconds:>8.0f}{'  over' if is_over else ''}"
            )
    print(f"{len(missed)} of {len(large)} requests are over a limit.")
    return missed


def probe(world: object, only: str) -> dict[str, Cost]:
    """Request everything in a transaction that is rolled back."""
    from django.db import transaction

    from tests.growth_probe import Probe

    with transaction.atomic():
        costs = {cost.name: cost for cost in Probe(world).costs(only)}  # type: ignore[arg-type]
        transaction.set_rollback(True)
    return costs


if __name__ == "__main__":
    sys.exit(main())
