"""The client secret of the portal's own Microsoft sign-in. It is a setting, so an operator must renew it."""

from datetime import UTC, datetime, time

from django.conf import settings

from connections.services.expiry.credential_expiry import THRESHOLDS
from connections.services.notifications import alerts

WHAT = "Client secret of the portal's own sign-in"
CONSEQUENCE = "Nobody can sign in to the portal with Microsoft."
ACTION = (
    "An operator of the portal must create a new client secret in Entra, set LOGIN_MICROSOFT_CLIENT_SECRET and "
    "LOGIN_MICROSOFT_SECRET_EXPIRES, and restart the portal."
)


def expires_at() -> datetime | None:
    """Return the beginning of the day on which the secret expires, or None if LOGIN_MICROSOFT_SECRET_EXPIRES is empty."""
    day = settings.LOGIN_MICROSOFT_SECRET_EXPIRES
    return None if day is None else datetime.combine(day, time.min, UTC)


def warn_due(*, now: datetime) -> None:
    """Warn the IT admins before the secret expires and once it has expired, with one email per threshold."""
    at = expires_at()
    if at is None:
        return
    reached = [days for days in THRESHOLDS if (at - now).total_seconds() <= days * 86400]
    if not reached:
        return
    state = "has expired" if at <= now else "expires soon"
    message = alerts.Message(
        f"{WHAT} {state}",
        (f"From {at:%Y-%m-%d} on: {CONSEQUENCE}", f"What to do: {ACTION}"),
        "/expiries/",
        "View expirations",
        "You received this email because you are an IT admin.",
        facts=(("Expires", f"{at:%Y-%m-%d}"), ("Setting", "LOGIN_MICROSOFT_CLIENT_SECRET")),
        tone="warning",
    )
    step = "expired" if at <= now else str(min(reached))
    alerts.notify_it_admins(message, about=f"sign-in-secret:{at:%Y-%m-%d}:{step}", now=now)
