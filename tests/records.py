"""What the portal has recorded and sent so far."""

from connections.models import AuditEvent, Delivery


def actions(prefix: str = "") -> list[str]:
    """Return the actions in the audit trail, the oldest first."""
    events = AuditEvent.objects.filter(action__startswith=prefix).order_by("pk")
    return list(events.values_list("action", flat=True))


def subjects(email: str) -> list[str]:
    """Return the subjects of the alerts for this address, the oldest first."""
    return list(Delivery.objects.filter(email=email).order_by("pk").values_list("subject", flat=True))


def message_subjects(email: str) -> list[str]:
    """Like ``subjects``, but only of the messages that are not about an incident."""
    rows = Delivery.objects.filter(email=email).order_by("pk")
    return [row.payload["message"]["subject"] for row in rows if "message" in row.payload]
