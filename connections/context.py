"""What every template knows: who is looking, and what the navigation may offer them."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from connections import access
from connections.models import Approval, User
from connections.services import consent_requests


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
                "read_people": access.can_read_people(user),
                "read_reviews": access.can_read_reviews(user),
                "manage_alerts": access.can_manage_alerts(user),
                "connect": access.can_connect(user),
            },
        }
        # Asked of the database only where the navigation is shown.
        facts["waiting_requests"] = SimpleLazyObject(lambda: _waiting_requests(user))
        facts["waiting_approvals"] = SimpleLazyObject(lambda: _waiting_approvals(user))
    return facts


def _waiting_requests(user: User) -> int:
    """How many consent requests wait for this IT admin; 0 for others."""
    return consent_requests.to_decide(timezone.now()).count() if access.can_manage_registry(user) else 0


def _waiting_approvals(user: User) -> int:
    """How many approvals wait for this IT admin, those they asked for themselves left out; 0 for others."""
    if not access.can_decide_approvals(user):
        return 0
    waiting = access.visible_approvals(user).filter(state=Approval.State.WAITING)
    return waiting.exclude(requested_by=user).count()
