"""The facts of an alert, the same for all attempts.

Webhooks include them (docs/alerts.md), so names must not change.
"""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.db.models import Q

from connections.models import AppCredential, Connection, Delivery, Incident
from connections.services.notifications import alerts

LISTED = 100  # maximum number of affected connections in a webhook; the count includes all


def payloads(deliveries: Iterable[Delivery]) -> dict[int, dict[str, Any]]:
    """Return the current facts of each alert, by its primary key. An incident with several alerts is read only once."""
    incidents: dict[int, dict[str, Any]] = {}
    return {delivery.pk: _facts(delivery, incidents) for delivery in deliveries}


def _facts(delivery: Delivery, incidents: dict[int, dict[str, Any]]) -> dict[str, Any]:
    incident = delivery.incident
    if incident is not None:
        if incident.pk not in incidents:
            incidents[incident.pk] = _incident(incident)
        facts: dict[str, Any] = {"incident": incidents[incident.pk]}
        if delivery.payload.get("reason") in (alerts.COPY, alerts.LIST, alerts.CHANNEL):
            owner = incident.assignee.contact if incident.assignee else None
            is_reachable = owner is not None and not owner.is_suspended and bool(owner.email)
            facts["nobody_else_was_told"] = incident.who == Connection.Who.OWNER and not is_reachable
        return facts
    if delivery.credential is not None:
        return {"credential": _credential(delivery.credential, delivery.payload.get("number", 0))}
    if "message" in delivery.payload:
        message = delivery.payload["message"]
        return {"message": message | {"url": f"{settings.PORTAL_URL}{message['path']}"}}
    return {"by": delivery.payload.get("by", ""), "url": f"{settings.PORTAL_URL}/"}


def _incident(incident: Incident) -> dict[str, Any]:
    affected = incident.affected.all() if incident.closed_at else incident.affected.filter(healed_at=None)
    return {
        "id": incident.pk,
        "url": f"{settings.PORTAL_URL}/incidents/{incident.pk}/",
        "kind": incident.kind,
        "code": incident.code,
        "title": incident.title,
        "cause": incident.cause,
        "action": incident.action,
        "who": incident.who,
        "assignee": incident.assignee_name,
        "opened_at": incident.opened_at.isoformat(),
        "closed_at": incident.closed_at.isoformat() if incident.closed_at else None,
        "reminders": incident.reminders,
        "connection_count": affected.count(),
        "connections": [
            {"id": row.connection_id, "name": row.connection_name, "owner": row.owner_name}
            for row in affected.order_by("connection_name", "pk")[:LISTED]
        ],
    }


def _credential(credential: AppCredential, days: int) -> dict[str, Any]:
    app = credential.app_registration
    # Whether the app registration has another accepted credential that expires later or never.
    others = AppCredential.objects.live().filter(app_registration=app).exclude(pk=credential.pk)
    accepted = others.filter(rejected_at=None, verified_at__isnull=False)
    outlasting = Q(expires_at__gt=credential.expires_at) | Q(kind=AppCredential.Kind.FEDERATED)
    is_covered = bool(credential.expires_at) and accepted.filter(outlasting).exists()
    return {
        "id": credential.pk,
        "url": f"{settings.PORTAL_URL}/apps/{app.pk}/",
        "kind": credential.get_kind_display(),
        "name": str(credential),
        "app_registration": app.name,
        "expires_at": credential.expires_at.isoformat() if credential.expires_at else None,
        "days": days,
        "connection_count": app.connections.filter(status__in=Connection.KEPT_ALIVE).count(),
        "is_covered": is_covered,
    }
