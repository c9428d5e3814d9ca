from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction

from connections.models import ApiKey
from connections.services.notifications import alerts

THRESHOLDS = (14, 7, 1)  # days left
IDLE = timedelta(days=30)  # a key that has not been used for this long may no longer be needed


def warn_due(*, now: datetime) -> int:
    """Warn people whose keys expire soon, or IT admins if nobody else can be emailed.

    Returns the number of warnings.
    """
    expiring = ApiKey.objects.filter(
        revoked_at=None, owner__is_active=True, expires_at__gt=now, expires_at__lte=now + timedelta(days=THRESHOLDS[0])
    )
    rows = expiring.select_related("owner__alert_choice", "owner__responsible__alert_choice")
    return sum(_warn(key, key.expires_at, now) for key in rows if key.expires_at is not None)


def days_to_warn(
    thresholds: Sequence[int], expires_at: datetime, *, warned_days: int | None, now: datetime
) -> int | None:
    """Return the smallest threshold (in days left) that has been reached, or None if its warning was already sent."""
    days = min(threshold for threshold in thresholds if expires_at - now <= timedelta(days=threshold))
    return None if warned_days is not None and warned_days <= days else days


def _warn(key: ApiKey, expires_at: datetime, now: datetime) -> bool:
    days = days_to_warn(THRESHOLDS, expires_at, warned_days=key.warned_days, now=now)
    if days is None:
        return False
    about = f"api_key:{key.pk}:ends:{expires_at:%Y-%m-%d}:{days}"
    contact = key.owner.contact
    with transaction.atomic():
        unchanged = ApiKey.objects.filter(pk=key.pk, warned_days=key.warned_days, expires_at=expires_at)
        if not unchanged.update(warned_days=days):
            return False  # another worker has just done it
        message = _message(key, expires_at.astimezone(UTC), days, now)
        if contact is not None and contact.is_active and contact.email:
            alerts.notify([contact], message, about=about, now=now)
        else:
            alerts.notify_it_admins(message, about=about, now=now)
    return True


def _message(key: ApiKey, ends: datetime, days: int, now: datetime) -> alerts.Message:
    when = "within 1 day" if days == 1 else f"within {days} days"
    used = f"{key.used_at.astimezone(UTC):%d %B %Y}" if key.used_at else "never"
    if key.used_at is None or now - key.used_at > IDLE:
        needed = f"Last used: {used}. If nobody needs this key, let it expire."
    else:
        needed = "This key is in use. Automations that use it will stop working."
    service = key.owner.is_service
    return alerts.Message(
        subject=f"API key {key.name} expires {when}",
        paragraphs=(f"{needed} What to do: rotate the key. The old secret stays valid while you replace it.",),
        path=f"/api-keys/{key.pk}/rotate/",
        button="Rotate key",
        why=(
            f"You received this email because you're responsible for the service account {key.owner}."
            if service
            else "You received this email because you own this API key."
        ),
        facts=(
            ("Key", f"{key.name} (m365p_{key.prefix}…)"),
            ("Owner", f"{key.owner}{' (service account)' if service else ''}"),
            ("Expires", f"{ends.day} {ends:%B %Y, %H:%M} UTC"),
            ("Last used", used),
            ("Portal", settings.PORTAL_URL),
        ),
        tone="warning",
    )
