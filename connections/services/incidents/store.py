"""Store incidents and their affected connections; incidents.py decides when to open and resolve them."""

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from connections import audit
from connections.models import AffectedConnection, AppRegistration, Connection, Incident, SharedMailbox, Tenant, User
from connections.models.audit import AuditAction
from connections.services.notifications import alerts

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cause:
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


@transaction.atomic
def report(cause: Cause, connections: Iterable[Connection], *, now: datetime) -> Incident:
    """Add the connections to the open incident for this cause, and return it. Opens one if there is none."""
    incident, is_new = _find_or_open(cause, now)
    count = _add_affected(incident, connections, now)
    if is_new:
        changes = {"code": cause.code, "cause": cause.cause, "connections": count}
        audit.record(AuditAction.INCIDENT_OPENED, incident, actor=None, changes=changes)
        alerts.incident_opened(incident, now=now)
    return incident


def _find_or_open(cause: Cause, now: datetime) -> tuple[Incident, bool]:
    with_key = Incident.objects.select_for_update().filter(key=cause.key, closed_at=None)
    for _ in range(2):
        incident = with_key.first()
        if incident is not None:
            Incident.objects.filter(pk=incident.pk).update(seen_at=now)
            return incident, False
        columns = {field.name: getattr(cause, field.name) for field in fields(cause)} | {
            "title": cause.title[:320],
            "code": cause.code[:60],
            "assignee_name": str(cause.assignee or "")[:320],
        }
        try:
            with transaction.atomic():
                return Incident.objects.create(**columns, opened_at=now, seen_at=now), True
        except IntegrityError:
            continue  # another worker has just opened it
    return with_key.get(), False


def _add_affected(incident: Incident, connections: Iterable[Connection], now: datetime) -> int:
    """Add connections, also those that were already resolved in this incident. Returns how many were passed."""
    rows = connections.iterator(_BATCH) if isinstance(connections, QuerySet) else iter(connections)
    count = 0
    while batch := list(itertools.islice(rows, _BATCH)):
        pks = [connection.pk for connection in batch]
        incident.affected.filter(connection_id__in=pks, healed_at__isnull=False).update(healed_at=None, since=now)
        affected = [
            AffectedConnection(
                incident=incident,
                connection=connection,
                connection_name=connection.name,
                owner=connection.owner,
                owner_name=str(connection.owner)[:320],
                since=now,
            )
            for connection in batch
        ]
        AffectedConnection.objects.bulk_create(affected, ignore_conflicts=True)
        count += len(batch)
    return count


def affected_in_open(pks: Collection[int]) -> QuerySet[AffectedConnection]:
    """Return the unresolved rows of these connections in open incidents."""
    return AffectedConnection.objects.filter(connection_id__in=pks, healed_at=None, incident__closed_at=None)


@transaction.atomic
def resolve_affected(affected: QuerySet[AffectedConnection], *, now: datetime) -> None:
    """Mark these rows as resolved, and close incidents that have no other affected connection.

    An incident about a rejected app registration stays open until Microsoft accepts the app registration again.
    """
    rows = dict(affected.values_list("pk", "incident_id"))
    # Lock first. Otherwise, two workers that resolve the last two connections would each see one that is unresolved.
    incidents = list(Incident.objects.select_for_update().filter(pk__in=set(rows.values())).order_by("pk"))
    AffectedConnection.objects.filter(pk__in=list(rows)).update(healed_at=now)
    for incident in incidents:
        by_app = incident.kind == Incident.Kind.APP_REGISTRATION
        if not by_app and not incident.affected.filter(healed_at=None).exists():
            close(incident.key, now=now)


@transaction.atomic
def close(key: str, *, now: datetime) -> None:
    """Close the open incident with this key, if there is one, and mark all its connections as resolved."""
    incident = Incident.objects.select_for_update().filter(key=key, closed_at=None).first()
    if incident is None:
        return
    Incident.objects.filter(pk=incident.pk).update(closed_at=now, remind_after=None)
    incident.closed_at = now
    incident.affected.filter(healed_at=None).update(healed_at=now)
    seconds = int((now - incident.opened_at).total_seconds())
    audit.record(AuditAction.INCIDENT_CLOSED, incident, actor=None, changes={"lasted_seconds": seconds})
    alerts.incident_resolved(incident, now=now)
