"""Many token calls answered at once: one statement finds everything, one round trip counts limits, one commit records.

Only what goes well is answered here, and who must wait is told so. Every refusal is left to the view of the route
(connections/api/tokens.py), which finds out by the ORM what is wrong and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import InterfaceError, OperationalError
from django.db import connection as database
from django.utils import timezone

from connections.errors import InvalidApiKey, PortalError
from connections.fields import decrypt
from connections.models import ApiKey
from connections.services.api_keys import api_keys, rate_limit, token_requests
from connections.services.api_keys.rate_limit import RateLimitState
from connections.services.tokens import fetch, lookup, single_flight
from connections.services.tokens.fetch import Refresh, RefreshNeeded, Token
from connections.services.tokens.single_flight import TokenRequirement


@dataclass(slots=True)
class TokenCall:
    """One caller's request for a token."""

    key: str = field(repr=False)  # its text
    pk: int | None  # of the connection
    name: str | None  # of the connection, if it is not named by its number
    wanted: TokenRequirement
    address: str | None
    is_head: bool = False  # asks whether there is a token, and takes none away
    is_counted: bool = False  # within the key's limit; a call that has waited is looked at again
    limit: RateLimitState | None = None
    refresh: Refresh = Refresh.NOT_TRIED


@dataclass(frozen=True, slots=True)
class Wait:
    """There may soon be a token: the connection must be refreshed first."""

    connection_pk: int
    app_pk: int
    patience: float  # seconds


# None: refused, or not to be decided here.
Outcome = Token | Wait | None


def answer(calls: Sequence[TokenCall]) -> list[Outcome]:
    """The outcome of each call. Every token among them has been recorded when this returns."""
    now = timezone.now()
    questions = [lookup.Question(api_keys.prefix_of(call.key), call.pk, call.name) for call in calls]
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
    """Look again on a new connection if the kept one no longer works."""
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
        token = _stored_token(match.connection, now)
        if match.app["rejected_at"] is not None and not (token and token.is_as(call.wanted, now)):
            return None
        failed = single_flight.is_trouble_recent(match.connection["trouble_at"], match.app["paused_until"], now)
        return fetch.choose(token, call.wanted, now=now, refresh=call.refresh, failed=failed)
    except RefreshNeeded as needed:
        return Wait(match.connection["id"], match.connection["app_registration_id"], needed.patience)
    except (InvalidApiKey, PortalError):
        return None


def _stored_token(connection: dict[str, Any], now: datetime) -> Token | None:
    sealed = connection["access_token"]
    is_over = connection["expires_at"] is None or connection["expires_at"] <= now
    return fetch.valid_token(
        connection["status"],
        connection["status_cause"],
        connection["status_action"],
        connection["expires_at"],
        connection["granted_scopes"],
        None if sealed is None or is_over else decrypt(sealed),
        now=now,
    )


def _count(
    calls: Sequence[TokenCall], matches: Sequence[lookup.Match | None], outcomes: list[Outcome], now: datetime
) -> None:
    """Count the calls within the limits of their keys, once each; what is beyond becomes None in ``outcomes``."""
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
    return token_requests.TokenRequest(key.pk, key.name, owner, connection["id"], connection["name"], call.address)
