"""record() is the only writer of the audit trail."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models, transaction

from connections.models import AuditEvent, User

# Names of things nobody may write into the trail, however they got into ``changes``.
_NEVER = frozenset({"secret", "private_key", "refresh_token", "previous_refresh_token", "access_token", "password"})
SET = "(set)"  # stands for a secret's value


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change came from: the request's id and the client's address."""

    request_id: str = ""
    address: str | None = None


# Set per request by the middleware and per task by the worker, so that services need not know either.
origin: ContextVar[Origin] = ContextVar("audit_origin", default=Origin())  # noqa: B039


def record(
    action: str,
    target: models.Model,
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
    if _NEVER & (changes or {}).keys():
        raise ValueError("A secret's name turned up in an audit record; record that it changed, not what it is.")
    came_from = origin.get()
    return AuditEvent.objects.create(
        action=action,
        outcome=outcome,
        actor=actor,
        actor_name=actor_name[:320] or named(actor),
        target_type=type(target).__name__,
        target_id=str(target.pk or ""),
        target_name=str(target)[:320],
        changes=changes or {},
        owner_id=getattr(target, "owner_id", None),
        request_id=came_from.request_id,
        address=came_from.address,
        **({"at": at} if at else {}),
    )


def named(actor: User | None) -> str:
    """How somebody stands in records that outlive them. None is the portal itself.

    Name and sign-in name; where both do not fit, the sign-in name stays whole, as it alone is unique.
    """
    if actor is None:
        return "Portal"
    sign_in_name = f" <{actor.username}>"
    return str(actor)[: 320 - len(sign_in_name)] + sign_in_name


def changed(target: models.Model, values: dict[str, Any]) -> dict[str, list[Any]]:
    """What setting ``values`` on ``target`` would change: {field: [before, after]} as plain text."""
    return {
        name: [_plain(getattr(target, name)), _plain(value)]
        for name, value in values.items()
        if getattr(target, name) != value
    }


def listed(values: Iterable[object]) -> str:
    """Several values as one fact: a list of two would read as "from the first to the second"."""
    return ", ".join(map(str, values))


def record_many(events: list[AuditEvent]) -> None:
    """Append events built by a sweep in one statement, inside the caller's transaction."""
    with transaction.atomic():
        AuditEvent.objects.bulk_create(events)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str | list | dict):
        return value
    return str(value)
