"""Who is calling: an API key in the Authorization header, and what it may do."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db.models import QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja.security import HttpBearer

from connections import audit
from connections.access import permissions, querysets
from connections.errors import AmbiguousName, InvalidApiKey, NotAllowed, RateLimited
from connections.models import ApiKey, Connection
from connections.services.api_keys import api_keys, rate_limit

LONGEST_NUMBER = 18  # digits of a primary key that every database takes
LONGEST_NAME = 120
MOST_CANDIDATES = 20
# In request.META: where the key stands within its limit. There already when the token endpoint has counted the call.
RATE_LIMIT = "portal.rate_limit"


class KeyAuth(HttpBearer):
    """``Authorization: Bearer m365p_…``; the key is then in ``request.auth``."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey:
        address, now = audit.origin.get().address, timezone.now()
        try:
            key = api_keys.authenticate(token, address=address, now=now)
        except InvalidApiKey:
            _count_bad_key(address, now)
            raise
        _count_call(request, key, now)
        return key


def _count_bad_key(address: str | None, now: datetime) -> None:
    """Whoever only guesses is put off; a right key from the same address still works. Raises TooManyCalls."""
    standing = rate_limit.count(f"bad-key:{address}", limit=settings.API_BAD_KEY_LIMIT, now=now)
    if standing is not None and standing.is_exceeded:
        raise RateLimited("Too many calls with wrong API keys from this address.", retry_after=standing.reset)


def _count_call(request: HttpRequest, key: ApiKey, now: datetime) -> None:
    if RATE_LIMIT not in request.META:
        limit = api_keys.rate_limit_of(key)
        request.META[RATE_LIMIT] = rate_limit.count(f"key:{key.pk}", limit=limit, now=now)
    standing = rate_limit_state(request)
    if standing is not None and standing.is_exceeded:
        raise RateLimited(
            f"This API key may be used {standing.limit} times in a minute, and that is used up.",
            retry_after=standing.reset,
        )


def rate_limit_state(request: HttpRequest) -> rate_limit.RateLimitState | None:
    """Where the calling key stands within its limit; None if it has none, or nobody has shown a key."""
    rate_limit_state: rate_limit.RateLimitState | None = request.META.get(RATE_LIMIT)
    return rate_limit_state


def require_scope(request: HttpRequest, scope: str) -> ApiKey:
    """The calling key. Raises NotAllowed if it lacks the scope."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    if scope not in key.scopes:
        raise NotAllowed(f"This API key lacks the scope {scope}.", action="Issue a key that has it.")
    return key


def visible_connections(key: ApiKey) -> QuerySet[Connection]:
    """What the key's owner sees, narrowed to what the key is for."""
    return _narrowed(key, querysets.visible_connections(key.owner))


def _narrowed(key: ApiKey, connections: QuerySet[Connection]) -> QuerySet[Connection]:
    return connections.filter(api_keys=key) if key.only_chosen else connections


def find_connection(key: ApiKey, ref: str) -> Connection:
    """The connection ``ref`` means: its number, or its name. Raises Http404 if the key sees none, AmbiguousName.

    Whatever is all digits is a number. The connection has its app registration, tenant and owner with it.
    """
    return _find(visible_connections(key), ref)


def find_usable_connection(key: ApiKey, ref: str, *columns: str) -> Connection | None:
    """As ``find_connection`` for the one call that must be cheap; None unless ``ref`` is the number of one whose
    tokens the key may fetch. Only ``columns`` are read, in one query.
    """
    if not (ref.isascii() and ref.isdigit() and len(ref) <= LONGEST_NUMBER):
        return None
    # First the row, then the question whether it may be used: for owners that takes no query at all.
    rows = Connection.objects.select_related("app_registration").defer(None).only(*columns).order_by()
    found = next(iter(rows.filter(pk=int(ref))), None)
    if found is None or not permissions.can_fetch_token(key.owner, found):
        return None
    return found if _reaches(key, found) else None


def _reaches(key: ApiKey, connection: Connection) -> bool:
    return not key.only_chosen or key.connections.filter(pk=connection.pk).exists()


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
