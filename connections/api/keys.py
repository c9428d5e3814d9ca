"""Who is calling: an API key in the Authorization header, and what it may do."""

from __future__ import annotations

from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja.security import HttpBearer

from connections import access, audit
from connections.errors import AmbiguousName, NotAllowed
from connections.models import ApiKey, Connection
from connections.services import api_keys

LONGEST_NUMBER = 18  # digits of a primary key that every database takes
LONGEST_NAME = 120
MOST_CANDIDATES = 20


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
    return _narrowed(key, access.visible_connections(key.owner))


def _narrowed(key: ApiKey, connections: QuerySet[Connection]) -> QuerySet[Connection]:
    return connections.filter(api_keys=key) if key.only_chosen else connections


def find_connection(key: ApiKey, ref: str) -> Connection:
    """The connection ``ref`` means: its number, or its name. Raises Http404 if the key sees none, AmbiguousName.

    Whatever is all digits is a number. The connection has its app registration, tenant and owner with it.
    """
    return _find(visible_connections(key), ref)


def _find(connections: QuerySet[Connection], ref: str) -> Connection:
    if ref.isascii() and ref.isdigit():
        if len(ref) > LONGEST_NUMBER:
            raise Http404
        return get_object_or_404(connections, pk=int(ref))
    if "\x00" in ref or len(ref) > LONGEST_NAME:
        raise Http404
    found = list(connections.filter(name=ref).order_by("pk")[: MOST_CANDIDATES + 1])
    if not found:
        raise Http404
    if len(found) > 1:
        numbers = ", ".join(str(one.pk) for one in found[:MOST_CANDIDATES])
        more = " and more" if len(found) > MOST_CANDIDATES else ""
        raise AmbiguousName(f"The connections {numbers}{more} all have this name.")
    return found[0]
