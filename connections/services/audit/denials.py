"""What was denied to whom: an event at once, and a count instead of further events when it repeats within a minute."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.apps import apps
from django.db import IntegrityError, transaction
from django.db.models import F

from connections import audit
from connections.models import AuditEvent, RepeatedDenial, User
from connections.models.audit import AuditAction

# Different things denied to one person within a minute; what comes on top is counted as one.
MOST = 60
_MUCH = ("many other pages", "Portal", "")


def record_denial(
    actor: User, *, tried: str, target_type: str, target_id: str, why: str, api_key: str = "", now: datetime
) -> None:
    """Record that ``actor`` tried something that is not theirs: ``tried`` is method and URL name.

    Call it outside of the work that was refused, as that is rolled back.
    """
    minute = now.replace(second=0, microsecond=0)
    mine = RepeatedDenial.objects.filter(person=actor, minute=minute)
    this = mine.filter(tried=tried, target_type=target_type, target_id=target_id)
    if this.update(count=F("count") + 1):
        return
    if mine.count() >= MOST:
        tried, target_type, target_id = _MUCH
        this = mine.filter(tried=tried, target_type=target_type, target_id=target_id)
        if this.update(count=F("count") + 1):
            return
    facts = {"tried": tried, "why": why} | ({"api_key": api_key} if api_key else {})
    try:
        with transaction.atomic():
            event = audit.record(
                AuditAction.ACCESS_DENIED,
                _subject(target_type, target_id),
                actor=actor,
                outcome=AuditEvent.Outcome.DENIED,
                changes=facts,
            )
            RepeatedDenial.objects.create(
                person=actor, tried=tried, target_type=target_type, target_id=target_id, minute=minute, event=event.pk
            )
    except IntegrityError:
        this.update(count=F("count") + 1)  # somebody else was first in this minute


def write_events(now: datetime) -> int:
    """Turn the counts of minutes that are over into events; returns how many. Several workers may call it."""
    done = 0
    over = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    for pk in RepeatedDenial.objects.filter(minute__lt=over).order_by("pk").values_list("pk", flat=True)[:1000]:
        with transaction.atomic():
            locked = RepeatedDenial.objects.select_for_update(skip_locked=True, of=("self",)).select_related("person")
            row = locked.filter(pk=pk).first()
            if row is not None:
                done += _fold(row)
    return done


def _fold(row: RepeatedDenial) -> int:
    row.delete()
    if row.count < 2:
        return 0
    audit.record(
        AuditAction.ACCESS_DENIED,
        _subject(row.target_type, row.target_id),
        actor=row.person,
        outcome=AuditEvent.Outcome.DENIED,
        changes={
            "tried": row.tried,
            "repeated": row.count - 1,
            "minute": row.minute.isoformat(),
            "first_event": row.event,
        },
    )
    return 1


def _subject(target_type: str, target_id: str) -> audit.Subject:
    """The thing by its name, or as much as is known of it. Reads no more than the name."""
    name = ""
    if target_id.isdecimal() and len(target_id) <= 18:
        model = apps.get_model("connections", target_type)
        columns = {field.name for field in model._meta.concrete_fields}
        column = next((one for one in ("name", "address", "username") if one in columns), "pk")
        found = model._default_manager.filter(pk=target_id).values_list(column, "pk").first()
        name = str(found[0]) if found and column != "pk" else ""
    return audit.Subject(target_type, target_id, name or f"{target_type} {target_id}".strip())
