"""Alert channels: webhooks and chats that get all of the organisation's alerts."""

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction

from connections import audit
from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput
from connections.fields import secret_field
from connections.models import AlertChannel, Delivery, User
from connections.models.audit import AuditAction
from connections.outbound import safe_http, webhooks
from connections.uniqueness import atomic_or

OVERLAP = timedelta(hours=24)  # alerts are also signed with the old secret for this long

Kind = AlertChannel.Kind


def add(*, name: str, kind: str, url: str, actor: User) -> tuple[AlertChannel, str]:
    """Add a channel. Returns the channel and its signing secret ("" for chats), which is never shown again.

    Raises NotAllowed, AlreadyExists or InvalidInput.
    """
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    secret = webhooks.new_secret() if kind == Kind.WEBHOOK else ""
    channel = AlertChannel(
        name=name, kind=kind, url=url, host=host_of(url), signing_secret=secret or None, created_by=actor
    )
    facts = {"kind": kind, "host": channel.host}
    with atomic_or(lambda: _taken(name)):
        channel.save(force_insert=True)
        audit.record(AuditAction.ALERT_CHANNEL_ADDED, channel, actor=actor, changes=facts)
    return channel, secret


def change(channel: AlertChannel, *, name: str, url: str = "", actor: User) -> None:
    """Change the name and, unless ``url`` is empty, the address. Raises NotAllowed, AlreadyExists or InvalidInput."""
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    values: dict[str, str] = {"name": name} | ({"host": host_of(url)} if url else {})
    changes: dict[str, object] = dict(audit.changed_fields(channel, values))
    if url:
        values["url"] = secret_field(AlertChannel, "url").encrypt(url, channel.identity)
        changes["address"] = audit.SET
    if not changes:
        return
    with atomic_or(lambda: _taken(name)):
        AlertChannel.objects.filter(pk=channel.pk).update(**values)
        audit.record(AuditAction.ALERT_CHANNEL_CHANGED, channel, actor=actor, changes=changes)
    channel.name = name


def disable(channel: AlertChannel, *, actor: User, now: datetime) -> None:
    """Stop sending alerts, including those that still wait. Safe to repeat. Raises NotAllowed."""
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    with transaction.atomic():
        if AlertChannel.objects.filter(pk=channel.pk, disabled_at=None).update(disabled_at=now):
            Delivery.objects.filter(channel=channel, delivered_at=None, given_up_at=None).update(
                given_up_at=now, next_attempt_at=None, last_error="The channel is disabled."
            )
            audit.record(AuditAction.ALERT_CHANNEL_DISABLED, channel, actor=actor)


def enable(channel: AlertChannel, *, actor: User) -> None:
    """Resume sending alerts. Safe to repeat. Raises NotAllowed."""
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    with transaction.atomic():
        if AlertChannel.objects.filter(pk=channel.pk, disabled_at__isnull=False).update(disabled_at=None):
            audit.record(AuditAction.ALERT_CHANNEL_ENABLED, channel, actor=actor)


def remove(channel: AlertChannel, *, actor: User) -> None:
    """Delete the channel and its deliveries. Safe to repeat. Raises NotAllowed."""
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    with transaction.atomic():
        if AlertChannel.objects.filter(pk=channel.pk).exists():
            audit.record(AuditAction.ALERT_CHANNEL_REMOVED, channel, actor=actor, changes={"host": channel.host})
            AlertChannel.objects.filter(pk=channel.pk).delete()


def replace_secret(channel: AlertChannel, *, actor: User, now: datetime) -> str:
    """Return a new signing secret. Alerts are also signed with the old one for OVERLAP.

    Raises NotAllowed, or InvalidInput for chats.
    """
    roles.require(permissions.can_manage_alerts(actor), action="Ask an IT admin.")
    if channel.kind != Kind.WEBHOOK:
        raise InvalidInput("Only webhooks have a signing secret. The address of a chat is its secret.")
    secret = webhooks.new_secret()
    current = signing_secrets(channel, now=now)[:1]
    with transaction.atomic():
        overlapping = [f"{old}@{int((now + OVERLAP).timestamp())}" for old in current]
        channel.signing_secret = " ".join([secret, *overlapping])  # type: ignore[assignment]  # a SecretField holds text
        channel.save(update_fields=["signing_secret"])
        audit.record(AuditAction.ALERT_CHANNEL_SECRET_REPLACED, channel, actor=actor, changes={"signing": audit.SET})
    return secret


def signing_secrets(channel: AlertChannel, *, now: datetime) -> list[str]:
    """Return the current secret and, for OVERLAP after a replacement, the previous one."""
    secrets = []
    # The column contains "current" or "current previous@until" (Unix seconds).
    for part in (channel.signing_secret or "").split():
        secret, _, until = part.partition("@")
        if not until or datetime.fromtimestamp(int(until), UTC) > now:
            secrets.append(secret)
    return secrets


def host_of(url: str) -> str:
    """Return the host in an address. Raises InvalidInput if the host is unknown or not allowed."""
    try:
        target = safe_http.parse_target(url, allow_private=settings.ALERT_PRIVATE_TARGETS)
        safe_http.check(target, allow_private=settings.ALERT_PRIVATE_TARGETS)
    except safe_http.TargetRefused as refused:
        raise InvalidInput(refused.cause, action=refused.action, field="url") from refused
    except OSError as unknown:
        raise InvalidInput(
            "The host name in this address can't be resolved.", action="Check the spelling.", field="url"
        ) from unknown
    return target.host


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists(f"A channel named “{name}” already exists.", action="Choose another name.", field="name")
