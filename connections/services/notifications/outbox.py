"""The outbox: claim the deliveries that are due, send them, and record the outcome.

Each row is a queue entry. A claim moves ``next_attempt_at`` forward by a lease, and sending happens outside any
transaction. If a worker dies in between, the row is due again when the lease expires. If it dies between sending and
recording, the alert is sent again with the same Message-ID or webhook-id.
"""

import random
import smtplib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from django.conf import settings
from django.core import mail
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from connections import audit, time_zones
from connections.access import permissions, roles
from connections.errors import PortalError, UnreadableSecret
from connections.models import AlertChannel, Delivery, User
from connections.models.audit import AuditAction
from connections.outbound import email, message_text, safe_http, teams_card, webhooks
from connections.services.notifications import channels as alert_channels
from connections.services.notifications import payload

LEASE = timedelta(minutes=10)  # longer than any batch can take
# Seconds to wait after each failed attempt, about three days in total; then the portal gives up.
WAITS = (30, 60, 120, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200, 57600, 86400)
JITTER = 0.2  # a wait is randomly longer or shorter by up to this share
MAX_COMBINED = 1000
COMBINE_FROM = 4  # if at least this many alerts wait for a recipient, they become one message


class NothingToRetry(PortalError):
    code = "cannot_retry"
    status = 409
    cause = "This alert was already delivered."
    action = ""


@dataclass(frozen=True, slots=True)
class Summary:
    claimed: int = 0
    delivered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One message to one recipient, made of one or more deliveries."""

    deliveries: list[Delivery]

    @property
    def first(self) -> Delivery:
        return self.deliveries[0]

    def alerts(self) -> list[message_text.AlertText]:
        return [
            message_text.build_alert(
                row.event, row.payload["facts"], reason=row.payload.get("reason", ""), at=row.created_at
            )
            for row in self.deliveries
        ]

    def subject(self) -> str:
        return message_text.digest_subject([delivery.event for delivery in self.deliveries])


def deliver_due(now: datetime, limit: int = 100) -> Summary:
    """Send everything that is due, in batches. A receiver that fails does not raise an error."""
    total = Summary()
    # The loop ends, because a claimed row is not due again until later.
    while claimed := _claim(_waiting().filter(next_attempt_at__lte=now), now=now, limit=limit):
        delivered = _send(claimed, now=now)
        total = Summary(
            total.claimed + len(claimed), total.delivered + delivered, total.failed + len(claimed) - delivered
        )
    return total


def send_now(delivery: Delivery, *, actor: User, now: datetime) -> Delivery:
    """Send one delivery now, even a failed one, and return it. Raises NotAllowed or NothingToRetry."""
    is_own_test = delivery.event == Delivery.Event.TEST and delivery.email == actor.email.lower()
    roles.require(is_own_test or permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    if delivery.delivered_at is not None:
        raise NothingToRetry
    with transaction.atomic():
        _requeue(Delivery.objects.filter(pk=delivery.pk), now=now)
        audit.record(AuditAction.DELIVERY_TRIED_AGAIN, delivery, actor=actor)
    claimed = _claim(_waiting().filter(pk=delivery.pk), now=now, limit=1)
    if not claimed:
        raise NothingToRetry("This alert was delivered or is being sent.", action="Refresh in a moment.")
    _send(claimed, now=now)
    delivery.refresh_from_db()
    return delivery


def retry_failed(*, actor: User, now: datetime) -> int:
    """Queue all failed deliveries, except to disabled channels. Returns how many. Raises NotAllowed."""
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    return _requeue(Delivery.objects.filter(delivered_at=None, channel__disabled_at=None), now=now)


def _requeue(rows: QuerySet[Delivery], *, now: datetime) -> int:
    return rows.filter(given_up_at__isnull=False).update(given_up_at=None, attempts=0, next_attempt_at=now)


def _waiting() -> QuerySet[Delivery]:
    return Delivery.objects.filter(delivered_at=None, given_up_at=None)


def _claim(deliveries: QuerySet[Delivery], *, now: datetime, limit: int) -> list[Delivery]:
    """Claim up to ``limit`` rows, and other due rows for the same people.

    Stores the facts of rows that are claimed for the first time.
    """
    with transaction.atomic():
        deliveries = deliveries.select_for_update(skip_locked=True).order_by("next_attempt_at", "pk")
        rows = list(deliveries[:limit])
        people = {row.email for row in rows if row.email}
        rows += deliveries.filter(email__in=people).exclude(pk__in=[row.pk for row in rows])[:MAX_COMBINED]
        new = [row.pk for row in rows if "facts" not in row.payload]
        related = ("incident__assignee", "credential__app_registration")
        subjects = Delivery.objects.filter(pk__in=new).select_related(*related)
        facts = payload.payloads(subjects.defer("credential__secret", "credential__private_key")) if new else {}
        for row in rows:
            row.attempts += 1
            row.next_attempt_at = now + LEASE
            row.payload = row.payload if row.pk not in facts else row.payload | {"facts": facts[row.pk]}
        Delivery.objects.bulk_update(rows, ["attempts", "next_attempt_at", "payload"], batch_size=100)
    return rows


def _send(claimed: list[Delivery], *, now: datetime) -> int:
    by_mail, by_channel = [row for row in claimed if row.email], [row for row in claimed if not row.email]
    return _send_mails(by_mail, now=now) + _send_to_channels(by_channel, now=now)


def _send_mails(rows: list[Delivery], *, now: datetime) -> int:
    """Send all emails over one connection. If the server itself fails, the remaining emails are postponed."""
    if not rows:
        return 0
    delivered = 0
    trouble = ""
    connection = mail.get_connection()
    try:
        for message in _outgoing(rows, key=lambda row: row.email):
            problem = trouble
            if not trouble:
                problem, is_general = _send_mail(message, connection)
                trouble = problem if is_general else ""
            delivered += _record_outcome(message, problem, now=now)
    finally:
        with suppress(OSError, smtplib.SMTPException):  # every outcome has been recorded
            connection.close()
    return delivered


def _send_mail(message: OutgoingMessage, connection: Any) -> tuple[str, bool]:
    """Send one email. Returns the problem ("" if none), and whether the problem would affect all other emails too."""
    try:
        connection.open()
        connection.send_messages([_mail(message)])
    except smtplib.SMTPRecipientsRefused as refused:
        answers = list(refused.recipients.values())
        return f"The mail server rejected the address: {_answer(*answers[0]) if answers else ''}", False
    except smtplib.SMTPAuthenticationError as refused:
        return f"The mail server rejected the sign-in ({refused.smtp_code}).", True
    except smtplib.SMTPSenderRefused as refused:
        return f"The mail server rejected the sender: {_answer(refused.smtp_code, refused.smtp_error)}", True
    except smtplib.SMTPConnectError as refused:
        return f"The mail server is not ready: {_answer(refused.smtp_code, refused.smtp_error)}", True
    except smtplib.SMTPServerDisconnected:
        return "The mail server closed the connection.", True
    except smtplib.SMTPResponseException as refused:
        return f"The mail server rejected the message: {_answer(refused.smtp_code, refused.smtp_error)}", False
    except smtplib.SMTPException as failed:
        return f"The mail server reported an error ({type(failed).__name__}).", True
    except TimeoutError:
        return "The mail server didn't respond in time.", True
    except OSError:
        return "The mail server can't be reached.", True
    except ValueError:
        return "This email address isn't valid.", False
    return "", False


def _mail(message: OutgoingMessage) -> mail.EmailMultiAlternatives:
    """Build the email, with times in the time zone that the recipient chose."""
    with timezone.override(time_zones.find(message.first.payload.get("time_zone", ""))):
        return _built_mail(message)


def _built_mail(message: OutgoingMessage) -> mail.EmailMultiAlternatives:
    first, alerts = message.first, message.alerts()
    if len(alerts) > 1:
        ids = [_message_id(delivery) for delivery in message.deliveries]
        return email.digest_email(
            message.subject(), alerts, to=first.email, message_ids=ids, portal_url=settings.PORTAL_URL
        )
    incident = first.incident_id
    thread = f"incident-{incident}-{first.payload['facts']['incident']['opened_at'][:10]}" if incident else ""
    return email.incident_email(
        alerts[0], to=first.email, message_id=_message_id(first), thread=thread, portal_url=settings.PORTAL_URL
    )


def _answer(code: int, text: bytes | str) -> str:
    line = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {message_text.one_line(line)}"[:200]


def _send_to_channels(rows: list[Delivery], *, now: datetime) -> int:
    pks = {row.channel_id for row in rows if row.channel_id}
    channels = AlertChannel.objects.defer("url", "signing_secret").in_bulk(pks)
    delivered = 0
    trouble: dict[int, str] = {}  # channels that did not respond; their other rows are not sent now
    chats = {pk for pk, channel in channels.items() if channel.kind == AlertChannel.Kind.CHAT}
    for message in _outgoing(rows, key=lambda row: row.channel_id, together=lambda row: row.channel_id in chats):
        channel = channels.get(message.first.channel_id or 0)
        if channel is None or (channel.disabled_at and message.first.event != Delivery.Event.TEST):
            refused = [delivery.pk for delivery in message.deliveries]
            Delivery.objects.filter(pk__in=refused, delivered_at=None).update(
                last_error="The channel is disabled.", next_attempt_at=None, given_up_at=now
            )
            continue
        problem = trouble.get(channel.pk, "")
        if not problem:
            problem, answered = _send_to_channel(message, channel, now=now)
            if not answered:
                trouble[channel.pk] = problem
        delivered += _record_outcome(message, problem, now=now)
    return delivered


def _send_to_channel(message: OutgoingMessage, channel: AlertChannel, *, now: datetime) -> tuple[str, bool]:
    """Send one message. Returns the problem ("" if none), and whether the channel responded at all."""
    try:
        url = channel.url or ""
        body, headers = _request_to_channel(message, channel, now=now)
    except UnreadableSecret as unreadable:
        return unreadable.cause, False
    private, ca_bundle = settings.ALERT_PRIVATE_TARGETS, settings.MICROSOFT_CA_BUNDLE
    answer = safe_http.post(url, body, headers, allow_private=private, ca_bundle=ca_bundle)
    return ("" if answer.accepted else answer.problem), bool(answer.status)


def _request_to_channel(
    message: OutgoingMessage, channel: AlertChannel, *, now: datetime
) -> tuple[bytes, dict[str, str]]:
    first = message.first
    if channel.kind == AlertChannel.Kind.CHAT:
        alerts = message.alerts()
        body = teams_card.single_card(alerts[0])
        if len(alerts) > 1:
            body = teams_card.digest_card(message.subject(), alerts, url=f"{settings.PORTAL_URL}/incidents/")
        return body, {"Content-Type": "application/json"}
    body = webhooks.body(first.event, at=first.created_at.isoformat(), data=first.payload["facts"])
    signing = alert_channels.signing_secrets(channel, now=now)
    return body, webhooks.headers(_message_id(first), body, timestamp=int(now.timestamp()), signing_secrets=signing)


def _outgoing(
    rows: list[Delivery], *, key: Callable[[Delivery], Any], together: Callable[[Delivery], bool] = lambda row: True
) -> Iterator[OutgoingMessage]:
    """Yield one message per delivery. If at least COMBINE_FROM deliveries can be combined, they become one message."""
    for _, group in groupby(sorted(rows, key=lambda row: (key(row), row.pk)), key=key):
        deliveries = list(group)
        shared = [row for row in deliveries if row.event != Delivery.Event.TEST and together(row)]
        if len(shared) < COMBINE_FROM:
            shared = []
        yield from (OutgoingMessage([row]) for row in deliveries if row not in shared)
        if shared:
            yield OutgoingMessage(shared)


def _message_id(delivery: Delivery) -> str:
    """Return an ID that is the same for all attempts. The time keeps it unique even after a backup was restored."""
    return f"alert-{delivery.pk}-{int(delivery.created_at.timestamp())}"


def _record_outcome(message: OutgoingMessage, problem: str, *, now: datetime) -> int:
    """Record the outcome. Returns how many deliveries succeeded."""
    pks = [delivery.pk for delivery in message.deliveries]
    if not problem:
        return Delivery.objects.filter(pk__in=pks).update(
            delivered_at=now, next_attempt_at=None, given_up_at=None, last_error=""
        )
    for delivery in message.deliveries:
        following = None  # give up
        if delivery.attempts <= len(WAITS):
            spread = 1 + random.uniform(-JITTER, JITTER)
            following = now + timedelta(seconds=WAITS[delivery.attempts - 1] * spread)
        Delivery.objects.filter(pk=delivery.pk, delivered_at=None).update(
            last_error=problem[:300], next_attempt_at=following, given_up_at=None if following else now
        )
    return 0
