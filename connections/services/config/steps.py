from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from django.db import models

from connections.models import AppRegistration, User
from connections.services.config.schema import ChannelEntry, Problems, TenantEntry
from connections.services.registry.credentials import NewSecret

M = TypeVar("M", bound=models.Model)
Changes = tuple[tuple[str, str, str], ...]  # field, before, after


class Verb(StrEnum):
    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class StepContext:
    """The actor and time of a step, and the results of the checks that were made before the transaction."""

    actor: User
    now: datetime
    directories: dict[tuple[str, str], str] = field(default_factory=dict)  # (environment, directory_id) → tid
    accepted: dict[int, bool] = field(default_factory=dict)  # line of a secret → whether Microsoft accepted the secret


Run = Callable[[StepContext], object]


@dataclass(frozen=True, slots=True)
class Step:
    """One change. Steps that make the same change are equal, regardless of their line in the file."""

    verb: Verb
    noun: str
    name: str
    changes: Changes = ()
    line: int = field(default=0, compare=False)
    run: Run = field(default=lambda context: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class CredentialTest:
    """A client secret to test with Microsoft before anything is written."""

    app_registration: AppRegistration  # may be unsaved
    secret: NewSecret
    line: int


@dataclass(slots=True)
class Plan:
    steps: list[Step] = field(default_factory=list)  # in order
    kept: list[str] = field(default_factory=list)  # not in the file; only removed with ``prune``
    notes: list[str] = field(default_factory=list)
    # Checked before anything is written: directories, secrets, and hosts of channels.
    lookups: list[TenantEntry] = field(default_factory=list)
    trials: list[CredentialTest] = field(default_factory=list)
    targets: list[ChannelEntry] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)

    def add(self, noun: str, name: str, facts: dict[str, Any], line: int, run: Run) -> None:
        values = tuple((key, "", as_text(value)) for key, value in facts.items() if value not in (None, "", [], ()))
        self.steps.append(Step(Verb.ADD, noun, name, values, line, run))

    def change(self, noun: str, name: str, changes: Changes, line: int, run: Run) -> None:
        if changes:
            self.steps.append(Step(Verb.CHANGE, noun, name, changes, line, run))


def removals(noun: str, rows: Iterable[M], remove: Callable[[M, StepContext], object]) -> list[Step]:
    return [Step(Verb.REMOVE, noun, str(row), run=partial(remove, row)) for row in rows]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Changes:
    return tuple(
        (name, as_text(before[name]), as_text(value)) for name, value in after.items() if before[name] != value
    )


def as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def given_values(**values: Any) -> dict[str, Any]:
    """Return only the values that the file mentions."""
    return {name: value for name, value in values.items() if value is not None}
