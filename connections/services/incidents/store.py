"""How an incident is written down: found or opened by its key, connections in it, healed one by one, closed.

What is an incident, and when it is over, is incidents.py's to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from connections import audit
from connections.models import (
    AffectedConnection,
    AppRegistration,
    Connection,
    Incident,
    SharedMailbox,
    Tenant,
    User,
)
from connections.models.audit import AuditAction
from connections.services.notifications import alerts

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cause:
    """What an incident says of itself."""

    kind: str
    key: str
    title: str
    code: str
    cause: str
    action: str
    who: str
    reference: str = ""
    assignee: User | None = None
    app_registration: AppRegistration | None = None
    tenant: Tenant | None = None
    mailbox: SharedMailbox | None = None
    person: User | None = None


def report(cause: Cause, connections: Iterable[Connection], *, now: datetime) -> Incident:
    """Open the incident of this cause, or find it open, with these connections in it."""
    with transaction.atomic():
        incident, is_new = _find_or_open(cause, now)
        added = _attach(incident, connections, now)
        if is_new:
            audit.record(
                AuditAction.INCIDENT_OPENED,
                incident,
                actor=None,
                changes={"code": cause.code, "cause": cause.cause, "connections": added},
            )
            alerts.incident_opened(incident, now=now)
    return incident


def _find_or_open(cause: Cause, now: datetime) -> tuple[Incident, bool]:
    still_open = Incident.objects.select_for_update().filter(key=cause.key, closed_at=None)
    for _ in range(2):
        found = still_open.first()
        if found is not None:
            Incident.objects.filter(pk=found.pk).update(seen_at=now)
            return found, False
        try:
            with transaction.atomic():
                return _insert(cause, now), True
        except IntegrityError:
            continue  # another worker has just opened it
    return still_open.get(), False


def _insert(cause: Cause, now: datetime) -> Incident:
    return Incident.objects.create(
        kind=cause.kind,
        key=cause.key,
        title=cause.title[:320],
        code=cause.code[:60],
        cause=cause.cause,
        action=cause.action,
        who=cause.who,
        reference=cause.reference,
        assignee=cause.assignee,
        assignee_name=str(cause.assignee or "")[:320],
        app_registration=cause.app_registration,
        tenant=cause.tenant,
        mailbox=cause.mailbox,
        person=cause.person,
        opened_at=now,
        seen_at=now,
    )


def _attach(incident: Incident, connections: Iterable[Connection], now: datetime) -> int:
    """Add connections to the blast radius; those that had healed are in it again."""
    many = connections.iterator(_BATCH) if isinstance(connections, QuerySet) else iter(connections)
    count = 0
    while some := list(itertools.islice(many, _BATCH)):
        pks = [connection.pk for connection in some]
        incident.affected.filter(connection_id__in=pks, healed_at__isnull=False).update(healed_at=None, since=now)
        AffectedConnection.objects.bulk_create(
            (
                AffectedConnection(
                    incident=incident,
                    connection=connection,
                    connection_name=connection.name,
                    owner=connection.owner,
                    owner_name=str(connection.owner)[:320],
                    since=now,
                )
                for connection in some
            ),
            ignore_conflicts=True,
        )
        count += len(some)
    return count


def affected_in_open(pks: Collection[int]) -> Any:
    """Where these connections are still broken in open incidents."""
    return AffectedConnection.objects.filter(connection_id__in=pks, healed_at=None, incident__closed_at=None)


def resolve_affected(affected: Any, *, now: datetime) -> None:
    """Heal these, and close the incidents in which nothing is broken any more."""
    rows = dict(affected.values_list("pk", "incident_id"))
    # Locked before looking: two that heal at once would each see the other one unhealed, and nobody would close it.
    incidents = list(Incident.objects.select_for_update().filter(pk__in=set(rows.values())).order_by("pk"))
    AffectedConnection.objects.filter(pk__in=list(rows)).update(healed_at=now)
    for incident in incidents:
        if incident.kind == Incident.Kind.APP_REGISTRATION:
            continue
        if not incident.affected.filter(healed_at=None).exists():
            close(incident.key, now=now)


def close(key: str, *, now: datetime) -> None:
    """Close the open incident with this key, if there is one, with everything in it."""
    with transaction.atomic():
        incident = Incident.objects.select_for_update().filter(key=key, closed_at=None).first()
        if incident is None:
            return
        Incident.objects.filter(pk=incident.pk).update(closed_at=now, remind_after=None)
        incident.closed_at = now
        incident.affected.filter(healed_at=None).update(healed_at=now)
        lasted = int((now - incident.opened_at).total_seconds())
        audit.record(AuditAction.INCIDENT_CLOSED, incident, actor=None, changes={"lasted_seconds": lasted})
        alerts.incident_resolved(incident, now=now)
