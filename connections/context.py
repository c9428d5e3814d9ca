"""What every template knows: who is looking, and what the navigation may offer them."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from connections import access
from connections.models import User


def portal(request: HttpRequest) -> dict[str, Any]:
    """Navigation rights of the signed-in person, and facts about this portal."""
    facts: dict[str, Any] = {
        "portal_url": settings.PORTAL_URL,
        "sandbox_url": settings.MICROSOFT_SANDBOX_URL,
        "request_id": request.META.get("PORTAL_REQUEST_ID", ""),
    }
    user = getattr(request, "user", None)
    if isinstance(user, User):
        facts |= {
            "role": access.person(user).role,
            "may": {
                "manage_registry": access.can_manage_registry(user),
                "read_registry": access.can_read_registry(user),
                "read_audit": access.can_read_audit(user),
                "manage_alerts": access.can_manage_alerts(user),
                "connect": access.can_connect(user),
            },
        }
    return facts
