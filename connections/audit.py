"""record() is the only writer of the audit trail."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models

from connections.models import AuditEvent, User
from connections.models.audit import AuditAction

# Names of things nobody may write into the trail, however they got into ``changes``.
_NEVER = frozenset({"secret", "private_key", "refresh_token", "previous_refresh_token", "access_token", "password"})
SET = "(set)"  # stands for a secret's value


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change came from: the request's id and the client's address."""

    request_id: str = ""
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about when that is no row of a table, or only known by its id."""

    type: str
    id: str
    name: str


TRAIL = Subject("AuditTrail", "", "Audit trail")


# Set per request by the middleware and per task by the worker, so that services need not know either.
origin: ContextVar[Origin] = ContextVar("audit_origin", default=Origin())  # noqa: B039


def record(
    action: AuditAction,
    target: models.Model | Subject,
    *,
    actor: User | None,
    changes: dict[str, Any] | None = None,
    outcome: str = AuditEvent.Outcome.DONE,
    actor_name: str = "",
    at: datetime | None = None,
) -> AuditEvent:
    """Append one event, inside the caller's transaction.

    ``action`` is ``noun.verb``; ``changes`` is ``{field: [before, after]}`` or plain facts; a fact of several values
    goes through listed(). ``actor`` None is the portal itself. ``at`` is the moment the change counts from, for changes
    that must be placed exactly; else the clock. Raises ValueError if a secret's name turns up in ``changes``.
    """
    event = _event(action, target, actor, changes, outcome, actor_name, at)
    event.save(force_insert=True)
    return event


def record_many(
    action: AuditAction,
    targets: Iterable[tuple[models.Model | Subject, dict[str, Any]]],
    *,
    actor: User | None,
    at: datetime | None = None,
) -> None:
    """The same action on many targets, each with its changes, in few statements; as record() otherwise."""
    done = AuditEvent.Outcome.DONE
    events = [_event(action, target, actor, changes, done, "", at) for target, changes in targets]
    AuditEvent.objects.bulk_create(events, batch_size=500)


def _event(
    action: AuditAction,
    target: models.Model | Subject,
    actor: User | None,
    changes: dict[str, Any] | None,
    outcome: str,
    actor_name: str,
    at: datetime | None,
) -> AuditEvent:
    if _NEVER & (changes or {}).keys():
        raise ValueError("A secret's name turned up in an audit record; record that it changed, not what it is.")
    came_from = origin.get()
    subject = target if isinstance(target, Subject) else _subject(target)
    return AuditEvent(
        action=action,
        outcome=outcome,
        actor=actor,
        actor_ref=None if actor is None else actor.pk,
        actor_name=actor_name[:320] or recorded_name(actor),
        target_type=subject.type[:40],
        target_id=subject.id[:40],
        target_name=subject.name[:320],
        changes=changes or {},
        owner_id=getattr(target, "owner_id", None),
        request_id=came_from.request_id,
        address=came_from.address,
        **({"at": at} if at else {}),
    )


def _subject(target: models.Model) -> Subject:
    return Subject(type(target).__name__, str(target.pk or ""), str(target))


def recorded_name(actor: User | None) -> str:
    """How somebody stands in records that outlive them. None is the portal itself.

    Name and sign-in name; where both do not fit, the sign-in name stays whole, as it alone is unique.
    """
    if actor is None:
        return "Portal"
    sign_in_name = f" <{actor.username}>"
    return str(actor)[: 320 - len(sign_in_name)] + sign_in_name


def changed_fields(target: models.Model, values: dict[str, Any]) -> dict[str, list[Any]]:
    """What setting ``values`` on ``target`` would change: {field: [before, after]} as plain text."""
    return {
        name: [_plain(getattr(target, name)), _plain(value)]
        for name, value in values.items()
        if getattr(target, name) != value
    }


def join_values(values: Iterable[object]) -> str:
    """Several values as one fact: a list of two would read as "from the first to the second"."""
    return ", ".join(map(str, values))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str | list | dict):
        return value
    return str(value)
