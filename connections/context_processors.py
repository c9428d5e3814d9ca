"""Context for every template: the signed-in user's role and permissions, and facts about the portal."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from connections import undo
from connections.access import counts, permissions, querysets, roles
from connections.models import Approval, ChangeRequest, User
from connections.services.consent import requests


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
        # Lazy, so that the queries run only on pages with the navigation.
        context["waiting_requests"] = SimpleLazyObject(lambda: _waiting_requests(user))
        context["waiting_changes"] = SimpleLazyObject(lambda: _waiting_changes(user))
        context["waiting_approvals"] = SimpleLazyObject(lambda: _waiting_approvals(user))
    return context


def _waiting_requests(user: User) -> int:
    """Return the number of consent requests that this IT admin can decide; 0 for everyone else."""
    return counts.capped(requests.awaiting_decision(timezone.now())) if permissions.can_manage_registry(user) else 0


def _waiting_approvals(user: User) -> int:
    """Return the number of approvals that this IT admin can decide, without their own; 0 for everyone else."""
    if not permissions.can_decide_approvals(user):
        return 0
    waiting = querysets.visible_approvals(user).filter(state=Approval.State.WAITING)
    return counts.capped(waiting.exclude(requested_by=user))


def _waiting_changes(user: User) -> int:
    """Return the number of other people's change requests that the user can see and that await a decision.

    Auditors get 0.
    """
    waiting = querysets.visible_change_requests(user).filter(state=ChangeRequest.State.WAITING)
    return counts.capped(waiting.exclude(requested_by=user)) if not roles.person(user).is_auditor else 0
