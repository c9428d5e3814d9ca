"""Authentication with an API key in the Authorization header, and the connections that a key can access."""

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja.security import HttpBearer

from connections import audit
from connections.access import permissions, querysets
from connections.errors import AmbiguousName, InvalidApiKey, NotAllowed, RateLimited
from connections.models import ApiKey, Connection
from connections.services.api_keys import api_keys, rate_limit

LONGEST_NUMBER = 18  # digits of the largest primary key that every database accepts
LONGEST_NAME = 120
MOST_CANDIDATES = 20
# The rate limit's state in request.META. It is already set if the token endpoint has counted the request.
RATE_LIMIT = "portal.rate_limit"


class KeyAuth(HttpBearer):
    """Authenticates ``Authorization: Bearer m365p_…``; the API key is then available as ``request.auth``."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey:
        address, now = audit.origin.get().address, timezone.now()
        try:
            key = api_keys.authenticate(token, address=address, now=now)
        except InvalidApiKey:
            # Repeated invalid keys are rate-limited per address; a valid key from the same address still works.
            state = rate_limit.count(f"bad-key:{address}", limit=settings.API_BAD_KEY_LIMIT, now=now)
            if state is not None and state.is_exceeded:
                cause = "Too many calls with wrong API keys from this address."
                raise RateLimited(cause, retry_after=state.reset) from None
            raise
        if RATE_LIMIT not in request.META:
            limit = api_keys.rate_limit_of(key)
            request.META[RATE_LIMIT] = rate_limit.count(f"key:{key.pk}", limit=limit, now=now)
        state = rate_limit_state(request)
        if state is not None and state.is_exceeded:
            cause = f"This API key may be used {state.limit} times in a minute, and that is used up."
            raise RateLimited(cause, retry_after=state.reset)
        return key


def rate_limit_state(request: HttpRequest) -> rate_limit.RateLimitState | None:
    """Return the state of the calling key's rate limit; None without a limit or without a valid key."""
    state: rate_limit.RateLimitState | None = request.META.get(RATE_LIMIT)
    return state


def require_scope(request: HttpRequest, scope: str) -> ApiKey:
    """Return the calling key. Raises NotAllowed if it lacks the scope."""
    key: ApiKey = request.auth  # type: ignore[attr-defined]
    if scope not in key.scopes:
        raise NotAllowed(f"This API key is missing the scope {scope}.", action="Create a key with this scope.")
    if scope in permissions.sleeping_scopes(key.owner):
        raise NotAllowed(
            f"The scope {scope} is suspended, because Microsoft Entra has not confirmed the roles of this key's owner "
            f"within {settings.ENTRA_AUTHORITY_MAX_AGE:g} hours.",
            action="The owner of the key needs to sign in to the portal again.",
        )
    return key


def visible_connections(key: ApiKey) -> QuerySet[Connection]:
    """Return the connections visible to the key's owner, restricted to the chosen ones if the key is limited."""
    connections = querysets.visible_connections(key.owner)
    return connections.filter(api_keys=key) if key.only_chosen else connections


def key_and_connection(request: HttpRequest, scope: str, ref: str) -> tuple[ApiKey, Connection]:
    """Return the calling key and the connection. Raises NotAllowed without the scope, and the errors of
    find_connection.
    """
    key = require_scope(request, scope)
    return key, find_connection(key, ref, by_reference=request.method in ("GET", "HEAD"))


def find_connection(key: ApiKey, ref: str, *, by_reference: bool = False) -> Connection:
    """Find a connection by its number or name, along with its app registration, tenant and owner.

    Digits are always read as a number. With ``by_reference``, the name may also be that of a reference that points at
    the connection. Changes don't use this, because they are meant for one particular connection. Raises Http404 if the
    key can see no match, and AmbiguousName if it can see several.
    """
    connections = visible_connections(key)
    if ref.isascii() and ref.isdigit():
        if len(ref) > LONGEST_NUMBER:
            raise Http404
        return get_object_or_404(connections, pk=int(ref))
    if "\x00" in ref or len(ref) > LONGEST_NAME:
        raise Http404
    named = Q(name=ref)
    if by_reference:
        named |= Q(pk__in=querysets.referenced_by(key.owner, ref).order_by().values("connection"))
    matches = list(connections.filter(named).order_by("pk")[: MOST_CANDIDATES + 1])
    if not matches:
        raise Http404
    if len(matches) > 1:
        numbers = ", ".join(str(connection.pk) for connection in matches[:MOST_CANDIDATES])
        more = " and more" if len(matches) > MOST_CANDIDATES else ""
        raise AmbiguousName(f"The connections {numbers}{more} all have this name.")
    return matches[0]


def find_usable_connection(key: ApiKey, ref: str, *columns: str) -> Connection | None:
    """Return the connection with this number, or None if the key may not request its tokens. Loads only ``columns``."""
    if not (ref.isascii() and ref.isdigit() and len(ref) <= LONGEST_NUMBER):
        return None
    # Load the connection first, so that the permission check needs no query to find its owner.
    rows = Connection.objects.select_related("app_registration", "app_consent").defer(None).only(*columns).order_by()
    connection = next(iter(rows.filter(pk=int(ref))), None)
    if connection is None or not permissions.can_fetch_token(key.owner, connection):
        return None
    if key.only_chosen and not key.connections.filter(pk=connection.pk).exists():
        return None
    return connection
