"""Handing out access tokens: the stored one while it lasts, a fresh one when it does not, asked for once."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.core.cache import cache
from django.utils import timezone
from redis.exceptions import RedisError

from connections.errors import ConnectionUnusable, TryAgainSoon
from connections.models import Connection
from connections.services import asking, keepalive, outcomes

logger = logging.getLogger(__name__)

LONGEST_WAIT = 10.0  # seconds a caller waits for somebody else's refresh
LOOK_EVERY = 0.1
# The turn ends by itself if its holder dies; longer than a token call can take.
TURN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Token:
    """An access token on its way to an automation."""

    access_token: str = field(repr=False)
    expires_at: datetime
    scope: str
    # Why no fresher one could be had, if that was tried; the token is valid all the same.
    trouble: str = ""


def valid_access_token(connection: Connection, *, now: datetime, min_valid: int = 60) -> str:
    """An access token that lasts at least ``min_valid`` seconds more, if one can be had. Raises as ``hand_out``."""
    return hand_out(connection, now=now, min_valid=min_valid).access_token


def hand_out(connection: Connection, *, now: datetime, min_valid: int) -> Token:
    """A token that lasts at least ``min_valid`` seconds more, refreshed inside the call when needed.

    However many ask at once, Microsoft is asked by one of them, and the others wait for its answer. While a token is
    still valid, trouble at Microsoft is only a remark on it. Raises ConnectionUnusable (its page says why), TryAgainSoon
    (nobody is to blame), UnreadableSecret.
    """
    found = _stored(connection.pk, now)
    if found is not None and found.expires_at >= now + timedelta(seconds=min_valid):
        return found
    refreshed = _refresh_once(connection.pk, found, now)
    if refreshed is not None:
        return refreshed
    if found is not None:
        return Token(found.access_token, found.expires_at, found.scope, trouble="microsoft_unavailable")
    raise TryAgainSoon


def _stored(pk: int, now: datetime) -> Token | None:
    """The stored token if it is valid. Raises ConnectionUnusable if the connection is not well."""
    # By name, so that exactly this one of the encrypted columns is read.
    columns = ("status", "status_cause", "status_action", "expires_at", "granted_scopes", "access_token")
    status, cause, action, expires_at, scope, access_token = Connection.objects.values_list(*columns).get(pk=pk)
    if status != Connection.Status.ACTIVE:
        raise ConnectionUnusable(cause or "Nobody has signed in for this connection yet.", action=action, code=status)
    if access_token is None or expires_at is None or expires_at <= now:
        return None
    return Token(access_token, expires_at, scope)


def _refresh_once(pk: int, before: Token | None, now: datetime) -> Token | None:
    """Refresh, or wait for whoever is refreshing; None if there is no better token than before."""
    if _asked_in_vain(pk, now):
        return None
    turn = f"refresh:{pk}"
    if _take(turn):
        try:
            outcomes.write(asking.ask(keepalive.claim_one(pk, now=now)), now=now)
        finally:
            _give_back(turn)
        return _better(pk, before, now)
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        better = _better(pk, before, timezone.now())
        if better is not None or not _is_taken(turn):
            return better
    return None


def _asked_in_vain(pk: int, now: datetime) -> bool:
    """Whether Microsoft has just given no answer, or asked for patience: polling would only make it worse."""
    columns = ("trouble_at", "app_registration__paused_until")
    trouble_at, paused_until = Connection.objects.values_list(*columns).get(pk=pk)
    if paused_until is not None and paused_until > now:
        return True
    return trouble_at is not None and now - trouble_at < timedelta(seconds=TryAgainSoon.retry_after)


# Without the cache everybody has a turn: Microsoft is asked more often than needed, and automations get their tokens.
_CACHE_DOWN = (RedisError, OSError)


def _take(turn: str) -> bool:
    try:
        return bool(cache.add(turn, 1, timeout=TURN_SECONDS))
    except _CACHE_DOWN:
        logger.warning("The cache cannot be reached; a token is refreshed without taking turns.")
        return True


def _give_back(turn: str) -> None:
    with suppress(*_CACHE_DOWN):  # it ends by itself
        cache.delete(turn)


def _is_taken(turn: str) -> bool:
    try:
        return cache.get(turn) is not None
    except _CACHE_DOWN:
        return False


def _better(pk: int, before: Token | None, now: datetime) -> Token | None:
    after = _stored(pk, now)
    return after if after is not None and (before is None or after.expires_at > before.expires_at) else None
