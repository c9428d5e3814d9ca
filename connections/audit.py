"""The audit trail. Only record() and record_many() write events."""

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models

from connections.models import AuditEvent, User
from connections.models.audit import AuditAction

# Keys that must never occur in ``changes``.
_FORBIDDEN = frozenset({"secret", "private_key", "refresh_token", "previous_refresh_token", "access_token", "password"})
SET = "(set)"  # recorded instead of a secret's value


@dataclass(frozen=True, slots=True)
class Origin:
    """The request's ID and the client's address."""

    request_id: str = ""
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """The target of an event if it is not a database row, or if only its ID is known."""

    type: str
    id: str
    name: str


TRAIL = Subject("AuditTrail", "", "Audit trail")


# The middleware sets this for each request and the worker for each task, so services don't need the request.
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
    """Append one event inside the caller's transaction.

    ``changes`` is ``{field: [before, after]}`` or plain facts. Use join_values() for a fact with several values. If
    ``actor`` is None, the portal itself acts. ``at`` is when the change takes effect; by default, that is now. Raises
    ValueError if ``changes`` contains the name of a secret.
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
    """Record the same action for many targets with few statements. Each target has its own changes."""
    events = [_event(action, target, actor, changes, AuditEvent.Outcome.DONE, "", at) for target, changes in targets]
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
    if _FORBIDDEN & (changes or {}).keys():
        raise ValueError("A secret's name turned up in an audit record; record that it changed, not what it is.")
    request = origin.get()
    subject = target
    if isinstance(subject, models.Model):
        subject = Subject(type(target).__name__, str(subject.pk or ""), str(target))
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
        request_id=request.request_id,
        address=request.address,
        **({"at": at} if at else {}),
    )


def recorded_name(actor: User | None) -> str:
    """Return "name <sign-in name>" for records that outlive the account. If that is too long, the name is shortened."""
    if actor is None:
        return "Portal"
    sign_in_name = f" <{actor.username}>"
    return str(actor)[: 320 - len(sign_in_name)] + sign_in_name


def changed_fields(target: object, values: dict[str, Any]) -> dict[str, list[Any]]:
    """Return what setting ``values`` on ``target`` would change, as {field: [before, after]}. For ``changes``."""
    return {
        name: [_plain(getattr(target, name)), _plain(value)]
        for name, value in values.items()
        if getattr(target, name) != value
    }


def join_values(values: Iterable[object]) -> str:
    """Join several values into one fact. A list of two values would be read as [before, after]."""
    return ", ".join(map(str, values))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str | list | dict):
        return value
    return str(value)
