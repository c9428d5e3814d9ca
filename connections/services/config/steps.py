"""What a plan is made of: steps in order, each able to carry itself out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from django.db import models

from connections.models import AppRegistration, User
from connections.services.config.schema import ChannelEntry, TenantEntry
from connections.services.registry.credentials import NewSecret

M = TypeVar("M", bound=models.Model)
Changes = tuple[tuple[str, str, str], ...]  # what, before, after: in words


class Verb(StrEnum):
    """What a step does."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step needs when it is carried out: who, when, and what Microsoft said beforehand."""

    actor: User
    now: datetime
    directories: dict[tuple[str, str], str] = field(default_factory=dict)  # (environment, directory_id) → tid
    accepted: dict[int, bool] = field(default_factory=dict)  # line of a secret → whether Microsoft accepted it


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. Two steps are the same if they do the same, wherever the file says so."""

    verb: Verb
    noun: str
    name: str
    changes: Changes = ()
    line: int = field(default=0, compare=False)
    run: Callable[[StepContext], object] = field(default=lambda doing: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class CredentialTest:
    """A client secret that Microsoft is asked about before anything is written."""

    app_registration: AppRegistration  # may be unsaved
    secret: NewSecret
    line: int


@dataclass(slots=True)
class Plan:
    """Everything to do, in order, and what is only worth saying."""

    steps: list[Step] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # not in the file; removed only when told to
    notes: list[str] = field(default_factory=list)
    # To be asked before anything is written: directories, secrets, and where channels lead.
    lookups: list[TenantEntry] = field(default_factory=list)
    trials: list[CredentialTest] = field(default_factory=list)
    targets: list[ChannelEntry] = field(default_factory=list)

    def do(
        self, verb: Verb, noun: str, name: str, changes: Changes, line: int, run: Callable[[StepContext], object]
    ) -> None:
        """Append a step."""
        self.steps.append(Step(verb, noun, name, changes, line, run))


def removals(noun: str, rows: Iterable[M], remove: Callable[[M, StepContext], object]) -> list[Step]:
    """The steps that remove these rows."""
    return [Step(Verb.REMOVE, noun, str(row), run=partial(remove, row)) for row in rows]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Changes:
    """What is different, in words."""
    return tuple(
        (name, as_text(before[name]), as_text(value)) for name, value in after.items() if before[name] != value
    )


def describe_new(values: dict[str, Any]) -> Changes:
    """What is said about something new, in words."""
    return tuple((name, "", as_text(value)) for name, value in values.items() if value not in (None, "", [], ()))


def as_text(value: Any) -> str:
    """A value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def given_values(**values: Any) -> dict[str, Any]:
    """Those values that the file says something about."""
    return {name: value for name, value in values.items() if value is not None}
