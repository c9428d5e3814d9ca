"""Who is told what. Every alert is a row in the outbox, written in the transaction of what it tells about.

Nothing is sent from here: services.deliveries does that later, so a dead mail server loses nothing. The key of a row
is unique, so telling somebody the same thing twice is impossible, however often a function here is called.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
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

Event = Delivery.Event

# Why somebody gets an alert; frozen in the row, told in the e-mail.
OWNER, IT_ADMIN, COPY, LIST, EXPIRY, CHANNEL, TEST = "owner", "it_admin", "copy", "list", "expiry", "channel", "test"
PERSONAL = "personal"

# Reminders after the opening; after the last of them one every week.
REMINDERS = (timedelta(hours=4), timedelta(days=1), timedelta(days=3), timedelta(days=7))
WEEKLY = timedelta(days=7)

# More than BURST alerts to one recipient within WINDOW are held back to the end of it and arrive as one message.
BURST = 5
WINDOW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody to tell, and why them: an e-mail address (lower case) or a channel."""

    reason: str
    email: str = ""
    channel_id: int | None = None
    can_wait: bool = True  # a signed webhook is read by a program: its alerts are neither held back nor put together

    @property
    def key(self) -> str:
        """What makes two recipients the same one."""
        return self.email or f"channel:{self.channel_id}"


def incident_opened(incident: Incident, *, now: datetime) -> None:
    """Tell the one who must act, the IT admins' list and every channel, once each; plan the first reminder.

    Call it in the transaction that opens the incident. Calling it again tells only whom it has not told yet, such as
    a new assignee.
    """
    with transaction.atomic():
        _queue(Event.OPENED, _recipients(incident), now=now, incident=incident)
        if incident.remind_after is None and _somebody_must_act(incident):
            incident.remind_after = incident.opened_at + REMINDERS[0]
            Incident.objects.filter(pk=incident.pk).update(remind_after=incident.remind_after)


def incident_resolved(incident: Incident, *, now: datetime) -> None:
    """Tell everybody who was told of the incident that it is over, once; no further reminder.

    Call it in the transaction that closes the incident.
    """
    with transaction.atomic():
        _queue(Event.HEALED, _told(incident), now=now, incident=incident)
        incident.remind_after = None
        Incident.objects.filter(pk=incident.pk).update(remind_after=None)


def remind_due(now: datetime) -> int:
    """Write the reminders that are due and plan the next ones; returns for how many incidents.

    Several workers may call it: whoever moves ``remind_after`` forward first has the incident.
    """
    done = 0
    for incident in Incident.objects.filter(closed_at=None, remind_after__lte=now).select_related("assignee"):
        with transaction.atomic():
            following = _next_reminder(incident.opened_at, now)
            untaken = Incident.objects.filter(pk=incident.pk, closed_at=None, remind_after=incident.remind_after)
            if not untaken.update(remind_after=following, reminders=incident.reminders + 1):
                continue
            incident.reminders += 1
            # Who has not even got the last alert yet (the mail server is down) needs no second one.
            waiting = _keys(incident.deliveries.filter(delivered_at=None, given_up_at=None))
            recipients = [recipient for recipient in _recipients(incident, remind=True) if recipient.key not in waiting]
            _queue(Event.REMINDER, recipients, now=now, incident=incident, number=incident.reminders)
            done += 1
    return done


def _next_reminder(opened_at: datetime, now: datetime) -> datetime:
    """The first planned moment after ``now``; missed ones are not made up for."""
    for step in REMINDERS:
        if opened_at + step > now:
            return opened_at + step
    weeks = (now - opened_at - REMINDERS[-1]) // WEEKLY + 1
    return opened_at + REMINDERS[-1] + weeks * WEEKLY


def _somebody_must_act(incident: Incident) -> bool:
    return incident.who in (Connection.Who.OWNER, Connection.Who.IT_ADMIN)


def credential_expires(credential: AppCredential, *, days: int, now: datetime) -> None:
    """Warn the IT admins that the credential expires within ``days`` days; once for each number of days and date."""
    people = [Recipient(EXPIRY, user.email.lower()) for user in _it_admins() if preferences_of(user).expiry_warnings]
    recipients = [*people, *_copy_list(), *_channels()]
    with transaction.atomic():
        _queue(Event.EXPIRY, recipients, now=now, credential=credential, number=days)


@dataclass(frozen=True, slots=True)
class Message:
    """What people are asked, or answered, in words. It is frozen when it is written, so it must stay true."""

    subject: str
    paragraphs: tuple[str, ...]
    path: str  # the page of the portal where it goes on, such as "/requests/7/"
    button: str
    why: str  # "You get this because …"
    facts: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()  # a list of things it is about; the message shows the first ones
    lines_label: str = ""
    tone: str = "info"  # broken, ok, warning or info


def notify(people: Iterable[User], message: Message, *, about: str, now: datetime) -> None:
    """Put a message to each of ``people`` into the outbox, save for those who have left, or want none.

    ``about`` names the occasion, for example "review:3:opened": the same one reaches the same person once, however
    often this is called. Call it in the transaction of what it tells about.
    """
    reached = [user for user in people if user.is_active and user.email and preferences_of(user).messages]
    unique = {recipient.key: recipient for recipient in (Recipient(PERSONAL, user.email.lower()) for user in reached)}
    held = _held_back(list(unique.values()), now=now)
    rows = [
        Delivery(
            key=f"{about}:{recipient.key}",
            event=Event.MESSAGE,
            subject=message.subject[:200],
            email=recipient.email,
            payload={"reason": recipient.reason, "message": asdict(message)},
            created_at=now,
            next_attempt_at=held.get(recipient.key, now),
        )
        for recipient in unique.values()
    ]
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)


def notify_it_admins(message: Message, *, about: str, now: datetime) -> None:
    """The same to every IT admin."""
    notify(_it_admins(), message, about=about, now=now)


def send_test(target: AlertChannel | User, *, actor: User, now: datetime) -> Delivery:
    """Put a test alert to a channel, or to one's own address, into the outbox.

    Raises NotAllowed, or InvalidInput if there is no address.
    """
    if isinstance(target, AlertChannel):
        roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
        recipient = Recipient(CHANNEL, channel_id=target.pk, can_wait=False)
    else:
        roles.require(target.pk == actor.pk, cause="A test goes to your own address only.")
        if not target.email:
            raise InvalidInput("Your account has no e-mail address.", action="Ask an operator of the portal to add it.")
        recipient = Recipient(TEST, target.email.lower(), can_wait=False)
    return Delivery.objects.create(
        key=f"test:{uuid.uuid4()}:{recipient.key}",
        event=Event.TEST,
        email=recipient.email,
        channel_id=recipient.channel_id,
        payload={"reason": TEST, "by": str(actor)},
        created_at=now,
        # Whoever asked for it waits for the answer and has it sent at once; the outbox is the safety net.
        next_attempt_at=now + timedelta(minutes=1),
    )


def preferences_of(user: User) -> AlertChoice:
    """What the person wants; everything, until they have said otherwise."""
    preferences: AlertChoice | None = getattr(user, "alert_choice", None)
    return preferences or AlertChoice(user=user)


def set_preferences(user: User, *, actor: User, **wanted: bool) -> None:
    """Set what the person wants by e-mail; ``wanted`` are columns of AlertChoice. Raises NotAllowed for somebody else's."""
    roles.require(actor.pk == user.pk, cause="Everybody chooses for themselves.")
    changes = audit.changed_fields(preferences_of(user), wanted)
    if not changes:
        return
    with transaction.atomic():
        AlertChoice.objects.update_or_create(user=user, defaults=wanted)
        audit.record(AuditAction.ACCOUNT_ALERTS_CHOSEN, user, actor=actor, changes=changes)


def _recipients(incident: Incident, *, remind: bool = False) -> list[Recipient]:
    """Who is told of an open incident, the strongest reason first. ``remind``: only who wants reminders."""
    admins = _it_admins()
    people = [
        Recipient(reason, user.email.lower())
        for user, reason in [*_must_act(incident, admins), *_copies(admins)]
        if preferences_of(user).reminders or not remind
    ]
    return [*people, *_copy_list(), *_channels()]


def _must_act(incident: Incident, admins: list[User]) -> Iterator[tuple[User, str]]:
    if incident.who == Connection.Who.OWNER:
        owner = incident.assignee.contact if incident.assignee else None
        if owner is not None and owner.is_active and owner.email and preferences_of(owner).own_incidents:
            yield owner, OWNER
    if incident.who == Connection.Who.IT_ADMIN:
        yield from ((admin, IT_ADMIN) for admin in admins if preferences_of(admin).own_incidents)


def _copies(admins: list[User]) -> Iterator[tuple[User, str]]:
    """IT admins who want to know what others must mend, unless there is a list for that."""
    if not settings.ALERT_COPY_TO:
        yield from ((admin, COPY) for admin in admins if preferences_of(admin).organisation_incidents)


def _it_admins() -> list[User]:
    return list(querysets.it_admins().exclude(email="").select_related("alert_choice").order_by("pk"))


def _copy_list() -> list[Recipient]:
    return [Recipient(LIST, address.strip().lower()) for address in settings.ALERT_COPY_TO]


def _channels() -> list[Recipient]:
    enabled = AlertChannel.objects.filter(disabled_at=None).order_by("pk").values_list("pk", "kind")
    return [Recipient(CHANNEL, "", pk, can_wait=kind != AlertChannel.Kind.WEBHOOK) for pk, kind in enabled]


def _told(incident: Incident) -> list[Recipient]:
    """Who has been told of the incident, without those who have left or do not want to hear that it is over."""
    rows = incident.deliveries.filter(event__in=(Event.OPENED, Event.REMINDER)).order_by("pk")
    told_rows = {
        email or channel_id: (email, channel_id, payload.get("reason", ""))
        for email, channel_id, payload in rows.values_list("email", "channel_id", "payload")
    }
    known = User.objects.annotate(address=Lower("email")).filter(address__in=[key for key in told_rows if key])
    people: dict[str, bool] = {}
    for user in known.select_related("alert_choice"):
        wants = user.is_active and preferences_of(user).recoveries
        people[user.address] = people.get(user.address, False) or wants
    enabled = {channel.channel_id: channel for channel in _channels()}
    return [
        Recipient(reason, email) if email else enabled[channel_id]
        for email, channel_id, reason in told_rows.values()
        if (reason == LIST or people.get(email, True) if email else channel_id in enabled)
    ]


def _queue(
    event: str,
    recipients: Iterable[Recipient],
    *,
    now: datetime,
    incident: Incident | None = None,
    credential: AppCredential | None = None,
    number: int | None = None,
) -> None:
    """One row per recipient; a recipient with several roles keeps the first. Rows that exist stay as they are."""
    unique: dict[str, Recipient] = {}
    for recipient in recipients:
        unique.setdefault(recipient.key, recipient)
    subject = f"incident:{incident.pk}" if incident else f"credential:{credential.pk}" if credential else ""
    about = f"{subject}:{event}" if number is None else f"{subject}:{event}:{number}"
    if credential is not None and credential.expires_at is not None:
        about += f":{credential.expires_at:%Y-%m-%d}"  # a date that was corrected is warned of anew
    held = _held_back(list(unique.values()), now=now)
    rows = [
        Delivery(
            key=f"{about}:{row_recipient.key}",
            event=event,
            incident=incident,
            credential=credential,
            email=row_recipient.email,
            channel_id=row_recipient.channel_id,
            payload=_payload(row_recipient, number),
            created_at=now,
            next_attempt_at=held.get(row_recipient.key, now),
        )
        for row_recipient in unique.values()
    ]
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)


def _payload(recipient: Recipient, number: int | None) -> dict[str, Any]:
    """The facts of the incident are added at the first attempt, when its whole extent is known."""
    return {"reason": recipient.reason} | ({} if number is None else {"number": number})


def _held_back(recipients: list[Recipient], *, now: datetime) -> dict[str, datetime]:
    """Until when alerts wait for recipients who have had BURST of them lately: a thousand become one message."""
    patient = {recipient.key: recipient for recipient in recipients if recipient.can_wait}
    if not patient:
        return {}
    emails = [recipient.email for recipient in patient.values() if recipient.email]
    channels = [recipient.channel_id for recipient in patient.values() if recipient.channel_id]
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
        latest = row["latest"]
        until = latest if latest is not None and latest > now else now + WINDOW
        held[row["email"] or f"channel:{row['channel_id']}"] = until
    return held


def _keys(deliveries: Any) -> set[str]:
    return {email or f"channel:{channel_id}" for email, channel_id in deliveries.values_list("email", "channel_id")}
