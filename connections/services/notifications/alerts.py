"""Decide who gets which alert, and add it to the outbox in the transaction of the event that it reports.

People also get it as a notification in the portal, written at the same time, whether or not they have an email address.
outbox.py sends it later, so nothing is lost if the mail server is down. The keys of rows are unique, so nobody gets the
same alert twice, however often these functions are called.
"""

import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max, Q
from django.db.models.functions import Lower

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import InvalidInput
from connections.models import AlertChannel, AlertChoice, AppCredential, Connection, Delivery, Incident, User
from connections.models.audit import AuditAction
from connections.services.notifications import notifications

Event = Delivery.Event

# The reason why someone gets an alert. It is stored in the row and explained in the email.
OWNER, IT_ADMIN, COPY, LIST, EXPIRY, CHANNEL, TEST = "owner", "it_admin", "copy", "list", "expiry", "channel", "test"
PERSONAL, AUDITOR = "personal", "auditor"

# Times from the opening of an incident to its reminders. After the last of these, a reminder is sent every week.
REMINDERS = (timedelta(hours=4), timedelta(days=1), timedelta(days=3), timedelta(days=7))
WEEKLY = timedelta(days=7)

# After BURST alerts to one recipient within WINDOW, more alerts wait until the end of WINDOW and arrive as one message.
BURST = 5
WINDOW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A person, an e-mail address (lower case) or a channel, and why they get the alert."""

    reason: str
    email: str = ""  # empty for a channel, and for a person who has no address
    channel_id: int | None = None
    can_wait: bool = True  # False for webhooks: a program reads them, so they are neither delayed nor combined
    time_zone: str = ""  # that the person chose for the times in the email
    user_id: int | None = None  # who also gets a notification in the portal

    @classmethod
    def person(cls, user: User, reason: str, *, can_wait: bool = True) -> "Recipient":
        return cls(reason, user.email.lower(), can_wait=can_wait, time_zone=user.time_zone, user_id=user.pk)

    @property
    def key(self) -> str:
        """Identify the receiver of a message; empty if there is none outside the portal."""
        return self.email or (f"channel:{self.channel_id}" if self.channel_id else "")


def incident_opened(incident: Incident, *, now: datetime) -> None:
    """Alert the assignee, the IT admins' list and every channel, once each, and schedule the first reminder.

    Call it in the transaction that opens the incident. If it is called again, only new recipients are alerted.
    """
    with transaction.atomic():
        _queue(Event.OPENED, incident, _recipients(incident), now=now)
        if incident.remind_after is None and incident.who in (Connection.Who.OWNER, Connection.Who.IT_ADMIN):
            incident.remind_after = incident.opened_at + REMINDERS[0]
            Incident.objects.filter(pk=incident.pk).update(remind_after=incident.remind_after)


def incident_resolved(incident: Incident, *, now: datetime) -> None:
    """Inform everybody who was alerted, and stop the reminders. Call it in the transaction that closes the incident."""
    with transaction.atomic():
        _queue(Event.HEALED, incident, [*_alerted(incident), *_notified(incident)], now=now)
        incident.remind_after = None
        Incident.objects.filter(pk=incident.pk).update(remind_after=None)


def remind_due(now: datetime) -> int:
    """Queue the reminders that are due, and schedule the next ones. Returns the number of incidents."""
    reminded = 0
    for incident in Incident.objects.filter(closed_at=None, remind_after__lte=now).select_related("assignee"):
        with transaction.atomic():
            following = _next_reminder(incident.opened_at, now)
            untaken = Incident.objects.filter(pk=incident.pk, closed_at=None, remind_after=incident.remind_after)
            if not untaken.update(remind_after=following, reminders=incident.reminders + 1):
                continue  # another worker handles it
            incident.reminders += 1
            # A recipient whose last alert is still waiting (the mail server may be down) needs no second one.
            undelivered = incident.deliveries.filter(delivered_at=None, given_up_at=None)
            keys = undelivered.values_list("email", "channel_id")
            waiting = {email or f"channel:{channel_id}" for email, channel_id in keys}
            recipients = [
                replace(recipient, email="") if recipient.email in waiting else recipient  # only in the portal
                for recipient in _recipients(incident, remind=True)
                if recipient.channel_id is None or recipient.key not in waiting
            ]
            _queue(Event.REMINDER, incident, recipients, now=now, number=incident.reminders)
            reminded += 1
    return reminded


def _next_reminder(opened_at: datetime, now: datetime) -> datetime:
    """Return the first scheduled time after ``now``. Missed reminders are skipped."""
    for step in REMINDERS:
        if opened_at + step > now:
            return opened_at + step
    weeks = (now - opened_at - REMINDERS[-1]) // WEEKLY + 1
    return opened_at + REMINDERS[-1] + weeks * WEEKLY


def credential_expires(credential: AppCredential, *, days: int, now: datetime) -> None:
    """Warn that a credential expires within ``days`` days, once for each number of days and expiration date."""
    people = [Recipient.person(user, EXPIRY) for user in _it_admins() if preferences_of(user).expiry_warnings]
    recipients = [*people, *_copy_list(), *_channels()]
    with transaction.atomic():
        _queue(Event.EXPIRY, credential, recipients, now=now, number=days)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to people. It is stored with its text, so the text must still be true when it is sent."""

    subject: str
    paragraphs: tuple[str, ...]
    path: str  # the page of the portal to open, such as "/requests/7/"
    button: str
    why: str  # "You received this email because …"
    facts: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()  # the affected items, of which the message shows the first few
    lines_label: str = ""
    tone: str = "info"  # broken, ok, warning or info


def notify(people: Iterable[User], message: Message, *, about: str, now: datetime, is_alarm: bool = False) -> None:
    """Queue a message to each of ``people``, except those who have left or have switched messages off.

    Nobody can switch an alarm off, and it never waits for other messages. ``about`` identifies the event, for example
    "review:3:opened". Each person gets one message per event, however often this is called. Call it in the event's
    transaction.
    """
    recipients = [
        Recipient.person(user, PERSONAL, can_wait=not is_alarm)
        for user in people
        if not user.is_suspended and (is_alarm or preferences_of(user).messages)
    ]
    columns = {"event": Event.MESSAGE, "subject": message.subject[:200]}
    text = notifications.Text(message.subject, message.path, message.tone)
    _create_rows(about, recipients, columns, {"message": asdict(message)}, text, now=now)


def notify_it_admins(message: Message, *, about: str, now: datetime) -> None:
    notify(_it_admins(), message, about=about, now=now)


def send_test(target: AlertChannel | User, *, actor: User, now: datetime) -> Delivery:
    """Queue a test alert to a channel or the actor. Raises NotAllowed, or InvalidInput if the actor has no address."""
    if isinstance(target, AlertChannel):
        roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
        recipient = Recipient(CHANNEL, channel_id=target.pk, can_wait=False)
    else:
        roles.require(target.pk == actor.pk, cause="You can send a test only to your own address.")
        if not target.email:
            raise InvalidInput("Your account has no email address.", action="Ask an operator to add it.")
        recipient = Recipient.person(target, TEST, can_wait=False)
    return Delivery.objects.create(
        key=f"test:{uuid.uuid4()}:{recipient.key}",
        event=Event.TEST,
        email=recipient.email,
        channel_id=recipient.channel_id,
        payload={"reason": TEST, "by": str(actor)},
        created_at=now,
        # The caller sends it at once and waits for the result. The outbox sends it only if the caller could not.
        next_attempt_at=now + timedelta(minutes=1),
    )


def preferences_of(user: User) -> AlertChoice:
    """Return the person's email preferences. By default, everything is on."""
    preferences: AlertChoice | None = getattr(user, "alert_choice", None)
    return preferences or AlertChoice(user=user)


def set_preferences(user: User, *, actor: User, **preferences: bool) -> None:
    """Set email preferences (columns of AlertChoice). Raises NotAllowed for another person's preferences."""
    roles.require(actor.pk == user.pk, cause="You can change only your own notification settings.")
    changes = audit.changed_fields(preferences_of(user), preferences)
    if not changes:
        return
    with transaction.atomic():
        AlertChoice.objects.update_or_create(user=user, defaults=preferences)
        audit.record(AuditAction.ACCOUNT_ALERTS_CHOSEN, user, actor=actor, changes=changes)


def _recipients(incident: Incident, *, remind: bool = False) -> list[Recipient]:
    """Return an open incident's recipients, the strongest reason first.

    With ``remind``, only those who want reminders.
    """
    if incident.kind == Incident.Kind.AUDIT_TRAIL:
        return [*_overseers(), *_copy_list(), *_channels()]
    admins = _it_admins()
    people: list[tuple[User, str]] = []
    if incident.who == Connection.Who.OWNER:
        owner = incident.assignee.contact if incident.assignee else None
        if owner is not None and not owner.is_suspended and preferences_of(owner).own_incidents:
            people.append((owner, OWNER))
    if incident.who == Connection.Who.IT_ADMIN:
        people += [(admin, IT_ADMIN) for admin in admins if preferences_of(admin).own_incidents]
    if incident.kind == Incident.Kind.ALTERED_SECRET:
        people += [(auditor, AUDITOR) for auditor in querysets.auditors().order_by("pk")]
    if not settings.ALERT_COPY_TO:  # otherwise the copies go to that list
        people += [(admin, COPY) for admin in admins if preferences_of(admin).organisation_incidents]
    persons = [
        Recipient.person(user, reason) for user, reason in people if preferences_of(user).reminders or not remind
    ]
    return [*persons, *_copy_list(), *_channels()]


def _it_admins() -> list[User]:
    return list(querysets.it_admins().select_related("alert_choice").order_by("pk"))


def _overseers() -> list[Recipient]:
    """Return all IT admins and auditors. They are alerted at once, whatever they chose.

    One of them may have a reason to hide the incident, so nobody can switch these alerts off or delay them.
    """
    admins = {admin.pk for admin in _it_admins()}
    people = querysets.overseers().order_by("pk")
    return [Recipient.person(user, IT_ADMIN if user.pk in admins else AUDITOR, can_wait=False) for user in people]


def _copy_list() -> list[Recipient]:
    return [Recipient(LIST, address.strip().lower()) for address in settings.ALERT_COPY_TO]


def _channels() -> list[Recipient]:
    enabled = AlertChannel.objects.filter(disabled_at=None).order_by("pk").values_list("pk", "kind")
    return [Recipient(CHANNEL, "", pk, can_wait=kind != AlertChannel.Kind.WEBHOOK) for pk, kind in enabled]


def _alerted(incident: Incident) -> list[Recipient]:
    """Return those who were alerted to the incident and want to know that it is resolved.

    Omits people who have left.
    """
    rows = incident.deliveries.filter(event__in=(Event.OPENED, Event.REMINDER)).order_by("pk")
    alerted = {
        email or channel_id: (email, channel_id, payload.get("reason", ""), payload.get("time_zone", ""))
        for email, channel_id, payload in rows.values_list("email", "channel_id", "payload")
    }
    known = User.objects.annotate(address=Lower("email")).filter(address__in=[key for key in alerted if key])
    people: dict[str, bool] = {}
    for user in known.select_related("alert_choice"):
        wants = not user.is_suspended and preferences_of(user).recoveries
        people[user.address] = people.get(user.address, False) or wants
    enabled = {channel.channel_id: channel for channel in _channels()}
    return [
        Recipient(reason, email, time_zone=zone) if email else enabled[channel_id]
        for email, channel_id, reason, zone in alerted.values()
        if (reason == LIST or people.get(email, True) if email else channel_id in enabled)
    ]


def _notified(incident: Incident) -> list[Recipient]:
    """Those who were told in the portal, as far as they want to know. _alerted() has their addresses."""
    notified = incident.notifications.filter(event__in=(Event.OPENED, Event.REMINDER)).values("user")
    people = User.objects.filter(pk__in=notified).select_related("alert_choice").order_by("pk")
    recipients = [user for user in people if not user.is_suspended and preferences_of(user).recoveries]
    return [
        Recipient(PERSONAL, user_id=user.pk)
        for user in recipients
        if querysets.visible_incidents(user).filter(pk=incident.pk).exists()  # who has lost a role learns nothing more
    ]


def _queue(
    event: str, about: Incident | AppCredential, recipients: Iterable[Recipient], *, now: datetime, number: int = 0
) -> None:
    columns: dict[str, Any] = {"event": event}
    if isinstance(about, Incident):
        columns["incident"], key = about, f"incident:{about.pk}:{event}"
        text = notifications.of_incident(about, event, now=now)
    else:
        columns["credential"], key = about, f"credential:{about.pk}:{event}"
        text = notifications.of_credential(about, days=number)
    if number:
        key += f":{number}"
    if isinstance(about, AppCredential) and about.expires_at is not None:
        key += f":{about.expires_at:%Y-%m-%d}"  # warn again if the date is corrected
    # The incident's facts are added at the first delivery attempt, when its full extent is known.
    payload = {"number": number} if number else {}
    _create_rows(key, recipients, columns, payload, text, now=now)


def _create_rows(
    about: str,
    recipients: Iterable[Recipient],
    columns: dict[str, Any],
    payload: dict[str, Any],
    text: notifications.Text,
    *,
    now: datetime,
) -> None:
    """Create one row per recipient, with the first reason if there are several. Existing rows stay as they are."""
    everyone = list(recipients)
    persons = (recipient.user_id for recipient in everyone if recipient.user_id is not None)
    notifications.write(about, persons, text, event=columns["event"], now=now, incident=columns.get("incident"))
    unique: dict[str, Recipient] = {}
    for recipient in everyone:
        if recipient.key:
            unique.setdefault(recipient.key, recipient)
    held = _held_back(list(unique.values()), now=now)
    rows = [
        Delivery(
            key=f"{about}:{key}",
            email=recipient.email,
            channel_id=recipient.channel_id,
            payload={"reason": recipient.reason, "time_zone": recipient.time_zone} | payload,
            created_at=now,
            next_attempt_at=held.get(key, now),
            **columns,
        )
        for key, recipient in unique.items()
    ]
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)


def _held_back(recipients: list[Recipient], *, now: datetime) -> dict[str, datetime]:
    """Return when the next alert may be sent to recipients who got BURST alerts within WINDOW, by recipient key."""
    patient = [recipient for recipient in recipients if recipient.can_wait]
    if not patient:
        return {}
    emails = [recipient.email for recipient in patient if recipient.email]
    channels = [recipient.channel_id for recipient in patient if recipient.channel_id]
    busy = (
        Delivery.objects.filter(Q(email__in=emails) | Q(channel_id__in=channels), created_at__gt=now - WINDOW)
        .exclude(event=Event.TEST)
        .order_by()
        .values("email", "channel_id")
        .annotate(count=Count("pk"), latest=Max("next_attempt_at", filter=Q(attempts=0)))
        .filter(count__gte=BURST)
    )
    held = {}
    for row in busy:
        latest = row["latest"] or now
        held[row["email"] or f"channel:{row['channel_id']}"] = latest if latest > now else now + WINDOW
    return held
