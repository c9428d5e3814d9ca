"""Records denied requests, with the person, the action and the object."""

import structlog
from django.db import DatabaseError
from django.http import HttpRequest
from django.utils import timezone

from connections.errors import NotAllowed
from connections.models import ApiKey, User
from connections.services.audit import denials

logger = structlog.get_logger(__name__)

# The model for the first part of a path; for the API, for the first part after /api/v1/.
_NOUNS = {
    "alerts": "AlertChannel",
    "api-keys": "ApiKey",
    "approvals": "Approval",
    "apps": "AppRegistration",
    "connections": "Connection",
    "incidents": "Incident",
    "mailboxes": "SharedMailbox",
    "people": "User",
    "references": "ConnectionReference",
    "requests": "ConsentRequest",
    "reviews": "AccessReview",
    "service-accounts": "User",
    "teams": "Team",
    "tenants": "Tenant",
}


def record(request: HttpRequest, error: NotAllowed) -> None:
    """Record the denial. A database error is only logged, so that the user still gets the 403 response."""
    key = getattr(request, "auth", None)
    actor = key.owner if isinstance(key, ApiKey) else getattr(request, "user", None)
    if not isinstance(actor, User):
        return
    match = request.resolver_match
    name = (match.view_name if match else "").replace("_", " ").replace(":", " ").replace("-", " ")
    target_type, target_id = _target(request.path_info)
    try:
        denials.record_denial(
            actor,
            tried=f"{request.method} {name or 'page'}"[:100],
            target_type=target_type,
            target_id=target_id,
            why=error.cause,
            api_key=key.name if isinstance(key, ApiKey) else "",
            now=timezone.now(),
        )
    except DatabaseError:
        logger.exception("a denial could not be recorded")


def _target(path: str) -> tuple[str, str]:
    """Return the type and ID of the object in a path: "/connections/7/edit/" → Connection 7. Otherwise, the Portal."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"]:
        parts = parts[2:]
    noun = _NOUNS.get(parts[0], "") if parts else ""
    ids = [part for part in parts[1:3] if part.isascii() and part.isdigit() and len(part) <= 18]
    return (noun, ids[0]) if noun and ids else ("Portal", "")
