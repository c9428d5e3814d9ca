"""Handle many token calls at once, with one statement, one round trip for the rate limits and one commit.

Only calls that succeed or have to wait are handled here. The route's view (connections/api/tokens.py) handles all
others, because it uses the ORM to find out and explain what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import InterfaceError, OperationalError
from django.db import connection as database
from django.utils import timezone

from connections.errors import ConnectionUnusable, InvalidApiKey, PortalError, TokenUnavailable
from connections.fields import secret_field
from connections.models import ApiKey, Connection, ResourceToken
from connections.services.api_keys import api_keys, rate_limit, token_requests
from connections.services.api_keys.rate_limit import RateLimitState
from connections.services.tokens import fetch, lookup, single_flight
from connections.services.tokens.fetch import Refresh, RefreshNeeded, Token
from connections.services.tokens.single_flight import TokenRequirement

_ACCESS_TOKEN = secret_field(Connection, "access_token")
_OTHER_ACCESS_TOKEN = secret_field(ResourceToken, "access_token")


@dataclass(slots=True)
class TokenCall:
    key: str = field(repr=False)  # the whole API key
    pk: int | None  # ID of the connection
    name: str | None  # name of the connection or of a reference to it, if no ID is given
    wanted: TokenRequirement
    address: str | None
    resource: str = ""  # a key of microsoft.resources; empty: the connection's own resource
    is_head: bool = False  # the call asks only whether there is a token
    is_counted: bool = False  # towards the key's rate limit; a call that waits is handled more than once
    limit: RateLimitState | None = None
    refresh: Refresh = Refresh.NOT_TRIED


@dataclass(frozen=True, slots=True)
class Wait:
    """A token may be available after the connection has been refreshed."""

    connection_pk: int
    app_pk: int
    patience: float  # seconds
    resource: str = ""  # empty: the connection's own resource


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no token at the moment. The view's explanation is the same for all keys of this owner."""

    connection_pk: int
    owner_pk: int


# None means that the view must decide. Usually, the call is then rejected.
Outcome = Token | Wait | Refused | None


def answer(calls: Sequence[TokenCall]) -> list[Outcome]:
    """Return the outcome of each call. All tokens among them have been recorded when this returns."""
    now = timezone.now()
    questions = [lookup.Question(api_keys.prefix_of(call.key), call.pk, call.name, call.resource) for call in calls]
    matches = _find(questions, now)
    outcomes = [_decide(call, match, now) for call, match in zip(calls, matches, strict=True)]
    _count(calls, matches, outcomes, now)
    requests = [
        _request(call, match)
        for call, match, outcome in zip(calls, matches, outcomes, strict=True)
        if match is not None and isinstance(outcome, Token) and not call.is_head
    ]
    token_requests.record(requests, now=now)
    return outcomes


def _find(questions: Sequence[lookup.Question], now: datetime) -> list[lookup.Match | None]:
    """Find the matches. Retries with a new database connection if the persistent one no longer works."""
    try:
        return lookup.find(questions, now=now)
    except (OperationalError, InterfaceError):
        if database.in_atomic_block:
            raise
        database.close()
        return lookup.find(questions, now=now)


def _decide(call: TokenCall, match: lookup.Match | None, now: datetime) -> Outcome:
    if match is None or not match.may_use:
        return None
    try:
        key = api_keys.check(match.key, call.key, address=call.address, now=now)
        if ApiKey.Scope.TOKEN_READ not in key.scopes:
            return None
        api_keys.note_use(key, call.key, address=call.address, now=now)
        resource = "" if call.resource == match.connection["resource"] else call.resource
        if resource and match.other is None:
            return None
        token = _stored_token(match.connection, match.other if resource else None, now)
        if match.app["rejected_at"] is not None and not (token and token.is_as(call.wanted, now)):
            return None
        trouble_at = match.other["trouble_at"] if resource and match.other else match.connection["trouble_at"]
        failed = single_flight.is_trouble_recent(trouble_at, match.app["paused_until"], now)
        return fetch.choose(token, call.wanted, now=now, refresh=call.refresh, failed=failed)
    except RefreshNeeded as needed:
        app_pk = match.connection["app_registration_id"]
        return Wait(match.connection["id"], app_pk, needed.patience, resource)
    except (ConnectionUnusable, TokenUnavailable):
        return Refused(match.connection["id"], match.key.owner.pk)
    except (InvalidApiKey, PortalError):
        return None


def _stored_token(connection: dict[str, Any], other: dict[str, Any] | None, now: datetime) -> Token | None:
    """Return the connection's token, or that of another resource (``other``), or None if it has expired.

    Raises ConnectionUnusable or UnreadableSecret.
    """
    source, field = (connection, _ACCESS_TOKEN) if other is None else (other, _OTHER_ACCESS_TOKEN)
    sealed = source["access_token"]
    is_over = source["expires_at"] is None or source["expires_at"] <= now
    token = fetch.valid_token(
        connection["status"],
        connection["status_cause"],
        connection["status_action"],
        source["expires_at"],
        source["granted_scopes"],
        None if sealed is None or is_over else field.decrypt(sealed, source["identity"]),
        now=now,
        resource=connection["resource"] if other is None else other["resource"],
    )
    if other is not None and token is None and fetch.is_refusal_recent(other["problem_code"], other["problem_at"], now):
        raise ConnectionUnusable
    return token


def _count(
    calls: Sequence[TokenCall], matches: Sequence[lookup.Match | None], outcomes: list[Outcome], now: datetime
) -> None:
    """Count each call once towards its key's rate limit. Outcomes beyond the limit become None."""
    counted = [
        (place, call, match.key)
        for place, (call, match) in enumerate(zip(calls, matches, strict=True))
        if match is not None and outcomes[place] is not None and not call.is_counted
    ]
    limits = [(f"key:{key.pk}", api_keys.rate_limit_of(key)) for _, _, key in counted]
    for (place, call, _), state in zip(counted, rate_limit.count_many(limits, now=now), strict=True):
        call.is_counted, call.limit = True, state
        if state is not None and state.is_exceeded:
            outcomes[place] = None


def _request(call: TokenCall, match: lookup.Match) -> token_requests.TokenRequest:
    key, connection = match.key, match.connection
    owner = f"{key.owner} <{key.owner.username}>"
    resource = call.resource or connection["resource"]
    reference = call.name or "" if match.by_reference else ""
    return token_requests.TokenRequest(
        key.pk, key.name, owner, connection["id"], connection["name"], call.address, resource, reference
    )
