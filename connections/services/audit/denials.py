"""Denied actions. The first one is audited at once, and repeats within the same minute are only counted."""

from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.db import IntegrityError, transaction
from django.db.models import F

from connections import audit
from connections.models import AuditEvent, RepeatedDenial, User
from connections.models.audit import AuditAction

# At most this many different denials are recorded per person and minute; all others share a single counter.
MAX_PER_MINUTE = 60
_OVERFLOW = ("many other pages", "Portal", "")


def record_denial(
    actor: User, *, tried: str, target_type: str, target_id: str, why: str, api_key: str = "", now: datetime
) -> None:
    """Record that ``actor`` was denied ``tried`` (method and URL name). Call it outside the request's transaction."""
    minute = now.replace(second=0, microsecond=0)
    denials = RepeatedDenial.objects.filter(person=actor, minute=minute)
    counter = denials.filter(tried=tried, target_type=target_type, target_id=target_id)
    if counter.update(count=F("count") + 1):
        return
    if denials.count() >= MAX_PER_MINUTE:
        tried, target_type, target_id = _OVERFLOW
        counter = denials.filter(tried=tried, target_type=target_type, target_id=target_id)
        if counter.update(count=F("count") + 1):
            return
    facts = {"tried": tried, "why": why} | ({"api_key": api_key} if api_key else {})
    try:
        with transaction.atomic():
            event = _record(actor, target_type, target_id, facts)
            RepeatedDenial.objects.create(
                person=actor, tried=tried, target_type=target_type, target_id=target_id, minute=minute, event=event.pk
            )
    except IntegrityError:
        counter.update(count=F("count") + 1)  # another request created the row first


def write_events(now: datetime) -> int:
    """Turn the counters of past minutes into events; returns the number of events. Safe to run concurrently."""
    written = 0
    last_minute = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    for pk in RepeatedDenial.objects.filter(minute__lt=last_minute).order_by("pk").values_list("pk", flat=True)[:1000]:
        with transaction.atomic():
            locked = RepeatedDenial.objects.select_for_update(skip_locked=True, of=("self",)).select_related("person")
            row = locked.filter(pk=pk).first()
            if row is None:
                continue
            row.delete()
            if row.count > 1:
                facts = {"tried": row.tried, "repeated": row.count - 1}
                facts |= {"minute": row.minute.isoformat(), "first_event": row.event}
                _record(row.person, row.target_type, row.target_id, facts)
                written += 1
    return written


def _record(actor: User, target_type: str, target_id: str, facts: dict[str, Any]) -> AuditEvent:
    subject = _subject(target_type, target_id)
    return audit.record(
        AuditAction.ACCESS_DENIED, subject, actor=actor, outcome=AuditEvent.Outcome.DENIED, changes=facts
    )


def _subject(target_type: str, target_id: str) -> audit.Subject:
    """Return the denied object with its name, or with its type and id if it has no name. Loads only the name."""
    name = ""
    if target_id.isdecimal() and len(target_id) <= 18:
        model = apps.get_model("connections", target_type)
        columns = {field.name for field in model._meta.concrete_fields}
        column = next((candidate for candidate in ("name", "address", "username") if candidate in columns), None)
        if column:
            name = str(model._default_manager.filter(pk=target_id).values_list(column, flat=True).first() or "")
    return audit.Subject(target_type, target_id, name or f"{target_type} {target_id}".strip())
