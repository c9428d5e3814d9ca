"""Telling people in time that their API keys end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction

from connections.models import ApiKey
from connections.services.notifications import alerts

# Warned of when so many days (or fewer) are left; each number once, and only the smallest that has been passed.
THRESHOLDS = (14, 7, 1)
# A key nobody has used for so long is named as such: perhaps nobody needs it.
IDLE = timedelta(days=30)


def warn_due(*, now: datetime) -> int:
    """Warn the owners of keys that end soon; returns how many warnings went out.

    Of a service account the person responsible is told, and the IT admins if there is none who could act.
    """
    near = ApiKey.objects.filter(
        revoked_at=None, owner__is_active=True, expires_at__gt=now, expires_at__lte=now + timedelta(days=THRESHOLDS[0])
    )
    return sum(
        _warn(key, now) for key in near.select_related("owner__alert_choice", "owner__responsible__alert_choice")
    )


def _warn(key: ApiKey, now: datetime) -> int:
    assert key.expires_at is not None  # noqa: S101 - only dated ones are asked for
    left = key.expires_at - now
    days = min(threshold for threshold in THRESHOLDS if left <= timedelta(days=threshold))
    if key.warned_days is not None and key.warned_days <= days:
        return 0
    about = f"api_key:{key.pk}:ends:{key.expires_at:%Y-%m-%d}:{days}"
    contact = key.owner.contact
    with transaction.atomic():
        if not ApiKey.objects.filter(pk=key.pk, warned_days=key.warned_days, expires_at=key.expires_at).update(
            warned_days=days
        ):
            return 0  # another worker has just done it
        if contact is not None and contact.is_active and contact.email:
            alerts.notify([contact], _message(key, days, now), about=about, now=now)
        else:
            alerts.notify_it_admins(_message(key, days, now), about=about, now=now)
    return 1


def _message(key: ApiKey, days: int, now: datetime) -> alerts.Message:
    assert key.expires_at is not None  # noqa: S101 - asked before
    when = "within a day" if days == 1 else f"within {days} days"
    ends = key.expires_at.astimezone(UTC)
    used = f"{key.used_at.astimezone(UTC):%d %B %Y}" if key.used_at else "never"
    if key.used_at is None or now - key.used_at > IDLE:
        needed = f"It was last used {used}: if nobody needs it any more, let it end."
    else:
        needed = "It is in use: whatever uses it stops then."
    service = key.owner.is_service
    return alerts.Message(
        subject=f"API key {key.name} ends {when}",
        paragraphs=(
            f"{needed} What to do: rotate it. It gets a new secret, and the old one goes on while you replace it.",
        ),
        path=f"/api-keys/{key.pk}/rotate/",
        button="Rotate the key",
        why=(
            f"You get this because of the service account {key.owner}, which you are responsible for as far as the portal "
            "knows."
            if service
            else "You get this because the key is yours."
        ),
        facts=(
            ("Key", f"{key.name} (m365p_{key.prefix}…)"),
            ("Owner", f"{key.owner}{' (service account)' if service else ''}"),
            ("Ends", f"{ends.day} {ends:%B %Y, %H:%M} UTC"),
            ("Last used", used),
            ("Portal", settings.PORTAL_URL),
        ),
        tone="warning",
    )
