"""Delegated tokens for one caller, with fewer permissions than the connection has. They are never stored."""

from collections.abc import Collection
from datetime import datetime, timedelta

from connections.errors import (
    ConnectionUnusable,
    InvalidInput,
    NotAllowed,
    RateLimited,
    ResourceNotGranted,
    TokenNotNarrowed,
    TokenUnavailable,
)
from connections.microsoft import capabilities, resources
from connections.microsoft.token_endpoint import OIDC_SCOPES, TokenSet
from connections.models import ApiKey, Connection
from connections.services.api_keys import rate_limit
from connections.services.tokens import resource_tokens, single_flight
from connections.services.tokens.fetch import Token

# Each of these tokens is a request to Microsoft, so a connection gets only this many per minute.
MOST_PER_MINUTE = 20


def parse(text: str, resource: str) -> tuple[str, ...]:
    """Parse scopes of one resource. Its short names need no prefix. Raises InvalidInput."""
    words = capabilities.describe(text)
    if resource != resources.GRAPH:
        words = [word if "/" in word else f"{resource}/{word}" for word in words]
    names = tuple(name for name in capabilities.parse_scopes(" ".join(words)) if name not in OIDC_SCOPES)
    if not names or resources.of_resource(names, resource) != list(names):
        raise InvalidInput(
            f"The scopes must be permissions of {resources.label(resource)}.",
            action="Request one token for each resource.",
            field="scope",
        )
    return names


def request(connection: Connection, key: ApiKey, resource: str, wanted: Collection[str], *, now: datetime) -> Token:
    """Request a token that has only the permissions in ``wanted``, which the connection must have.

    For work and school accounts, Microsoft puts all consented permissions of the resource into every token
    (identity-platform/permissions-consent-overview). Then a token with fewer permissions is impossible, and
    TokenNotNarrowed is raised. Also raises NotAllowed, InvalidInput, RateLimited, ConnectionUnusable, TokenUnavailable
    or UnreadableSecret.
    """
    _require_possible(connection, key, resource, wanted)
    state = rate_limit.count(f"narrow:{connection.pk}", limit=MOST_PER_MINUTE, now=now)
    if state is not None and state.is_exceeded:
        raise RateLimited(retry_after=state.reset)
    if single_flight.microsoft_just_failed(connection.pk, now):
        raise TokenUnavailable
    target = resource_tokens.audience(connection, resource)
    seen = resource_tokens.SeenGrant.of(Connection.objects.get(pk=connection.pk))
    answer = resource_tokens.request(connection, seen, target, wanted, now=now)
    if not isinstance(answer, TokenSet):
        if not answer.flags():
            raise TokenUnavailable
        raise ConnectionUnusable(answer.cause, action=answer.action, code="microsoft_refused")
    excess = sorted(set(answer.granted) - set(wanted) - OIDC_SCOPES)
    if excess:
        names = ", ".join(map(resources.short, excess))
        raise TokenNotNarrowed(f"Microsoft's token would also contain {names}.")
    ends = now + timedelta(seconds=answer.expires_in)
    return Token(answer.access_token, ends, " ".join(answer.granted), resource=resource)


def _require_possible(connection: Connection, key: ApiKey, resource: str, wanted: Collection[str]) -> None:
    if not key.can_narrow:
        raise NotAllowed(
            "This API key can't request tokens with fewer permissions.",
            action="Create a key that can, or leave out the scope.",
        )
    if connection.status != Connection.Status.ACTIVE or connection.is_blocked_by_app:
        action = connection.status_action or connection.app_registration.rejected_action
        cause = connection.status_cause or connection.app_registration.rejected_cause
        code = "app_credential_rejected" if connection.is_blocked_by_app else connection.status
        raise ConnectionUnusable(cause, action=action, code=code)
    if not connection.is_delegated:
        cause = "App-only tokens always contain all permissions that were granted to the application."
        raise TokenNotNarrowed(cause, action="Leave out the scope.")
    if resource != connection.resource and not connection.resource_tokens.filter(resource=resource).exists():
        raise ResourceNotGranted(f"This connection has no access to {resources.label(resource)}.")
    if missing := sorted(set(wanted) - connection.granted):
        cause = f"The connection doesn't have {', '.join(map(resources.short, missing))}."
        raise InvalidInput(cause, action="Request some of its own permissions.", field="scope")
