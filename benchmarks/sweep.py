"""``make bench``: what refreshing connections costs, beside a limit and four usual ways, and the idle memory.

All refresh in turns, in real processes, on one PostgreSQL and one token endpoint over TLS, each from the stored refresh
token to both new tokens stored. Measured are CPU seconds (user and system) of client and database for 1,000 refreshes,
and refreshes per second at an endpoint that takes 150 ms. The endpoint and the broker are not counted.

Exit code 1 if a goal is missed. ``--storm`` measures many connections that are due at once instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import django

from benchmarks import runners, storm
from benchmarks.runners import Runner
from benchmarks.stage import Stage, cpu_seconds, goal, memory_mb, served
from portal.processes import Process, stop_all
from portal.sandbox.process import free_port

HIGHEST_COST = 1.5  # of the limit
HIGHEST_SHARE_OF_LOOP = 0.1  # of social-auth's loop
LOWEST_RATE = 0.9  # of the limit
HIGHEST_MEMORY_MB = 350
ALL_IN_ONE, HIGHEST_ALL_IN_ONE = "all in one", 220
SLOW = 0.15  # seconds
WARM_UP = 500  # for each thread of the worker, which all keep their own connections

PORTAL, LIMIT, SOCIAL_AUTH = "portal", "limit", "social-auth"


@dataclass
class Contestant:
    """One way to refresh. The slow ones refresh only a ``part`` of the others' count."""

    runner: Runner
    part: float = 1.0
    costs: list[float] = field(default_factory=list)  # CPU seconds for 1,000 refreshes, by round
    rates: list[float] = field(default_factory=list)  # refreshes a second at the slow endpoint, by round

    @property
    def cost(self) -> float:
        return statistics.median(self.costs)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--count", type=int, help="connections refreshed in a round (default 2000; storm: 100000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each, in turns (default 5)")
    parser.add_argument("--storm", action="store_true", help="measure many connections that are due at once instead")
    options = parser.parse_args()
    stage = Stage(token_server=True)
    try:
        prepare(stage)
        if options.storm:
            return storm.measure(stage, options.count or 100_000)
        is_good = compare(stage, options.count or 2000, options.rounds)
        return int(not (is_good & report_memory(idle_memory(stage))))
    finally:
        stage.close()


def prepare(stage: Stage) -> None:
    """Create the portal's tables."""
    os.environ.update(stage.environment)
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def compare(stage: Stage, count: int, rounds: int) -> bool:
    """Let all refresh in turns, print what it cost, and return whether the goals are reached."""
    runners.create_connections(count)
    runners.create_others(count)
    # So that nobody pays for statistics that another one's writes have made necessary.
    call_sql("VACUUM ANALYZE")
    contestants: dict[str, Contestant] = {}
    try:
        for name, (start, part) in _CONTESTANTS.items():
            contestants[name] = Contestant(start(stage), part)
        for contestant in contestants.values():
            for _ in range(4 if contestant.part == 1 else 1):
                measure(stage, contestant.runner, min(int(count * contestant.part), WARM_UP))
        for number in range(1, rounds + 1):
            for name, contestant in contestants.items():
                measure_both(stage, contestant, count)
                print(f"round {number}  {name:<20} {contestant.costs[-1]:7.2f} CPU-s per 1,000", flush=True)
    finally:
        for contestant in contestants.values():
            contestant.runner.close()
    return report(contestants, count)


_CONTESTANTS: dict[str, tuple[Callable[[Stage], Runner], float]] = {
    LIMIT: (lambda stage: runners.Loop(stage, "limit_loop"), 1.0),
    PORTAL: (runners.Sweep, 1.0),
    "cached msal": (lambda stage: runners.Loop(stage, "msal_loop"), 0.1),
    SOCIAL_AUTH: (lambda stage: runners.SocialAuthLoop(stage, "social_auth_loop"), 0.1),
    "task per connection": (runners.TaskPerConnection, 0.1),
}


def measure_both(stage: Stage, contestant: Contestant, count: int) -> None:
    """Measure one round at a fast endpoint, and one at a slow endpoint if it would not take minutes."""
    count = max(1, int(count * contestant.part))
    cost, _ = measure(stage, contestant.runner, count)
    contestant.costs.append(cost * 1000 / count)
    if contestant.part == 1.0:
        stage.tokens.delay(SLOW)
        _, took = measure(stage, contestant.runner, count)
        stage.tokens.delay(0)
        contestant.rates.append(count / took)


def measure(stage: Stage, runner: Runner, count: int) -> tuple[float, float]:
    """Return CPU seconds and seconds of one round. Raises SystemExit unless every refresh was done exactly once."""
    runner.prepare(count)
    issued = stage.tokens.issued()
    before, began = cpu_seconds(runner.pid, stage.postgres.process.pid), time.monotonic()
    runner.run(count)
    cost, took = cpu_seconds(runner.pid, stage.postgres.process.pid) - before, time.monotonic() - began
    calls, stored = stage.tokens.issued() - issued, runner.stored()
    if calls != count or stored != count:
        raise SystemExit(f"{calls} calls and {stored} stored answers for {count} refreshes: nothing to compare.")
    return cost, took


def call_sql(statement: str) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)


def report(contestants: dict[str, Contestant], count: int) -> bool:
    """Print the medians and the goals; return whether all goals are reached."""
    limit, portal, loop = (contestants[name] for name in (LIMIT, PORTAL, SOCIAL_AUTH))
    print(f"\nMedians of {len(limit.costs)} rounds of {count} refreshes (slow ways: a tenth)")
    print(f"  {'':<20} {'CPU-s per 1,000':>16} {'÷ limit':>8} {'at 150 ms: refreshes/s':>24} {'÷ limit':>8}")
    for name, each in contestants.items():
        rate = f"{each.rate:24.0f} {each.rate / limit.rate:8.2f}" if each.rates else ""
        print(f"  {name:<20} {each.cost:16.2f} {each.cost / limit.cost:8.1f} {rate}")
    print()
    return all(
        [
            goal("cost: portal ÷ limit", portal.cost / limit.cost, most=HIGHEST_COST),
            goal("cost: portal ÷ social-auth's loop", portal.cost / loop.cost, most=HIGHEST_SHARE_OF_LOOP),
            goal("refreshes/s at 150 ms: portal ÷ limit", portal.rate / limit.rate, least=LOWEST_RATE),
        ]
    )


def idle_memory(stage: Stage) -> dict[str, float]:
    """Return the MB of each process after it has done its work once: one page served, one sweep run.

    ``all in one`` is the three of portal.all_in_one, instead of web, worker and beat.
    """
    from django.core.management import call_command

    call_command("collectstatic", interactive=False, verbosity=0)  # the page refers to them
    port = free_port()
    web = stage.launch("web", "portal.server", BIND=f"127.0.0.1:{port}")
    worker = stage.worker(LOG_LEVEL="DEBUG")
    beat = stage.launch("beat", "celery", "-A", "portal", "beat", SWEEP_INTERVAL="1")
    web.wait_until(lambda: served(f"http://127.0.0.1:{port}/sign-in/"), seconds=60)
    worker.wait_for_line("succeeded in", seconds=60)
    processes: dict[str, Process] = {"web": web, "worker": worker, "beat": beat, "broker": stage.valkey.process}
    memory = {name: memory_mb(process.pid) for name, process in processes.items()}
    stop_all([web, worker, beat])
    together = stage.launch("all", "portal.all_in_one", BIND=f"127.0.0.1:{port}", SWEEP_INTERVAL="1", LOG_LEVEL="DEBUG")
    together.wait_until(lambda: served(f"http://127.0.0.1:{port}/sign-in/"), seconds=60)
    together.wait_for_line("succeeded in", seconds=60)
    return memory | {ALL_IN_ONE: memory_mb(together.pid)}


def report_memory(memory: dict[str, float]) -> bool:
    """Print the memory of each process; return whether their sums are within the limits."""
    print("\nIdle memory in MB (PSS: shared pages counted once)")
    for name, size in memory.items():
        print(f"  {name:<12} {size:7.0f}")
    three = sum(size for name, size in memory.items() if name != ALL_IN_ONE)
    is_good = goal("together", three, most=HIGHEST_MEMORY_MB)
    return is_good & goal("all in one, and the broker", memory[ALL_IN_ONE] + memory["broker"], most=HIGHEST_ALL_IN_ONE)


if __name__ == "__main__":
    sys.exit(main())
