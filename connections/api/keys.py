"""Who is calling: an API key in the Authorization header, and what it may do."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from ninja.security import HttpBearer

from connections import access, audit
from connections.errors import NotAllowed
from connections.models import ApiKey, Connection
from connections.services import api_keys


class KeyAuth(HttpBearer):
    """``Authorization: Bearer m365p_…``; the key is then in ``request.auth``."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey:
        return api_keys.authenticate(token, address=audit.origin.get().address, now=timezone.now())


def require_scope(request: HttpRequest, scope: str) -> ApiKey:
    """The calling key. Raises NotAllowed if it lacks the scope."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    if scope not in key.scopes:
        raise NotAllowed(f"This API key lacks the scope {scope}.", action="Issue a key that has it.")
    return key


def visible_connections(key: ApiKey) -> QuerySet[Connection]:
    """What the key's owner sees, narrowed to what the key is for."""
    found = access.visible_connections(key.owner)
    chosen = list(key.connections.values_list("pk", flat=True))
    return found.filter(pk__in=chosen) if chosen else found
