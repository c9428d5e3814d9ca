"""Checks of a running portal: their results, and the runner, which continues when a check fails."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import redis
from django.db import DatabaseError


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # the portal works, but an operator should act
    PROBLEM = "problem"
    SKIPPED = "skipped"  # could not be checked, because something that it needs is unavailable


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check: what it found and what an operator should do. Contains no secrets."""

    state: State
    detail: str
    action: str = ""

    @property
    def is_working(self) -> bool:
        return self.state in (State.OK, State.WARNING)


def ok(detail: str) -> Result:
    return Result(State.OK, detail)


def warning(detail: str, action: str) -> Result:
    return Result(State.WARNING, detail, action)


def problem(detail: str, action: str) -> Result:
    return Result(State.PROBLEM, detail, action)


def combine(results: Iterable[Result]) -> Result:
    """Combine results into one with the worst state, and with the actions of the results in that state."""
    each = list(results)
    worst = max((result.state for result in each), key=list(State).index, default=State.OK)
    detail = "; ".join(result.detail for result in each)
    actions = dict.fromkeys(result.action for result in each if result.state == worst and result.action)
    return Result(worst, detail, " ".join(actions))


@dataclass(frozen=True, slots=True)
class Check:
    """A check by the name that ``/readyz`` and ``manage.py doctor`` show. ``needs`` names checks that it depends on."""

    name: str
    run: Callable[[], Result]
    action: str = ""  # what to do if the check cannot reach something
    needs: tuple[str, ...] = ()
    is_for_readiness: bool = False
    is_for_home: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    result: Result


def run(checks: Iterable[Check]) -> list[Finding]:
    """Run the checks in order. Never raises. A check is skipped if one that it needs has a problem."""
    findings: list[Finding] = []
    unusable: set[str] = set()
    for check in checks:
        missing = next((name for name in check.needs if name in unusable), None)
        if missing is not None:
            result = Result(State.SKIPPED, f"not checked, because {missing} has a problem")
        else:
            try:
                result = check.run()
            except (DatabaseError, redis.RedisError, OSError) as error:
                # Show only the class, because drivers' messages contain addresses and user names.
                result = problem(f"not reachable ({type(error).__name__})", check.action)
        if not result.is_working:
            unusable.add(check.name)
        findings.append(Finding(check.name, result))
    return findings
