"""Context for every template: the signed-in user's role and permissions, and facts about the portal."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from connections import undo
from connections.access import counts, permissions, querysets, roles
from connections.models import User
from connections.services.connections import request_inbox

_MOST_UNREAD = 20


def portal(request: HttpRequest) -> dict[str, Any]:
    context: dict[str, Any] = {
        "portal_url": settings.PORTAL_URL,
        "sandbox_url": settings.MICROSOFT_SANDBOX_URL,
        "request_id": request.META.get("PORTAL_REQUEST_ID", ""),
    }
    user = getattr(request, "user", None)
    if isinstance(user, User):
        context |= {
            "role": roles.person(user).role,
            "may": {
                "manage_registry": permissions.can_manage_registry(user),
                "read_registry": permissions.can_read_registry(user),
                "read_audit": permissions.can_read_audit(user),
                "read_people": permissions.can_read_people(user),
                "read_reviews": permissions.can_read_reviews(user),
                "manage_alerts": permissions.can_manage_alerts(user),
                "connect": permissions.can_connect(user),
            },
        }
        context["undo"] = SimpleLazyObject(lambda: undo.offered(request))
        # Lazy, so that the queries run only where the navigation is shown.
        context["waiting_requests"] = SimpleLazyObject(
            lambda: _at_most(request_inbox.count_to_decide(user, timezone.now()), request_inbox.MOST_COUNTED)
        )
        context["unread_notifications"] = SimpleLazyObject(lambda: _at_most(_unread(user), _MOST_UNREAD))
    return context


def _unread(user: User) -> int:
    return counts.capped(querysets.visible_notifications(user).filter(read_at=None), _MOST_UNREAD)


def _at_most(number: int, most: int) -> str:
    """Return a count as text, such as "3" or "20+"; empty for none."""
    return f"{most}+" if number > most else str(number or "")
