"""What people are told in the portal. alerts.py writes it in the transaction of the event, beside the emails."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from connections.access import querysets
from connections.models import AppCredential, Incident, Notification, User
from connections.models.alerts import Delivery
from connections.outbound import message_text

Event, Tone = Delivery.Event, Notification.Tone


@dataclass(frozen=True, slots=True)
class Text:
    """One line, its tone, and the page of the portal that it leads to."""

    line: str
    path: str
    tone: str = Tone.INFO


def of_incident(incident: Incident, event: str, *, now: datetime) -> Text:
    path = f"/incidents/{incident.pk}/"
    if event == Event.HEALED:
        return Text(f"Resolved: {incident.title}", path, Tone.OK)
    tone = Tone.WARNING if incident.kind in message_text.TASKS else Tone.BROKEN
    if event == Event.REMINDER:
        age = message_text.format_duration(now - incident.opened_at)
        return Text(f"Unresolved for {age}: {incident.title}", path, tone)
    return Text(incident.title, path, tone)


def of_credential(credential: AppCredential, *, days: int) -> Text:
    app = credential.app_registration
    line = f"{credential.get_kind_display()} for {app.name} {message_text.expires_within(days)}"
    return Text(line, f"/apps/{app.pk}/", Tone.WARNING)


def write(
    about: str,
    user_ids: Iterable[int],
    text: Text,
    *,
    event: str,
    now: datetime,
    incident: Incident | None = None,
) -> None:
    """Add a notification for each person, once for each event, which ``about`` identifies."""
    line = message_text.one_line(text.line)[:200]
    rows = [
        Notification(
            user_id=user_id,
            key=about[:420],
            event=event,
            incident=incident,
            text=line,
            tone=text.tone,
            path=text.path[:200],
            created_at=now,
        )
        for user_id in dict.fromkeys(user_ids)
    ]
    Notification.objects.bulk_create(rows, ignore_conflicts=True)


def mark_read(notification: Notification, *, actor: User, now: datetime) -> None:
    """Mark one of the actor's notifications as read. Not audited, because it changes only what the actor is shown."""
    querysets.visible_notifications(actor).filter(pk=notification.pk, read_at=None).update(read_at=now)


def mark_all_read(*, upto: int, actor: User, now: datetime) -> int:
    """Mark the actor's notifications up to the id ``upto`` as read, so that none is that arrived since; return how many."""
    unread = querysets.visible_notifications(actor).filter(pk__lte=upto, read_at=None)
    return unread.update(read_at=now)
