"""Refresh a connection on demand, once for all concurrent callers. A lock in the cache, called a turn, ensures this."""

import hashlib
import logging
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.cache import cache
from django.utils import timezone
from redis.exceptions import RedisError

from connections.errors import TokenUnavailable
from connections.models import Connection
from connections.services.api_keys import rate_limit
from connections.services.tokens import apply_results, batch_client, scheduler

logger = logging.getLogger(__name__)

# A turn expires if its holder dies. This is longer than a request to Microsoft can take.
LOCK_SECONDS = 30
# Refreshes per minute of a connection whose token is still valid. Without this limit, a caller that asks for a longer
# lifetime than Microsoft grants would cause a request with every call, until Microsoft throttles the app registration.
MOST_EARLY = 10

# In two separate steps, we could delete a turn that another process has taken in between.
_DELETE_OURS = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

# Without the cache, every process may refresh: Microsoft gets more requests, but automations still get their tokens.
_CACHE_DOWN = (RedisError, OSError)


def token_id(access_token: str) -> str:
    """An ID for a token that reveals nothing about it: the first half of its SHA-256 hash."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TokenRequirement:
    min_valid: int  # seconds for which the token must still be valid
    refused: str = ""  # token_id() of a token that Microsoft's services rejected before it expired

    def accepts(self, access_token: str, expires_at: datetime, now: datetime) -> bool:
        return expires_at >= now + timedelta(seconds=self.min_valid) and not self.refuses(access_token)

    def refuses(self, access_token: str) -> bool:
        return bool(self.refused) and self.refused == token_id(access_token)


def lock_name(pk: int) -> str:
    return f"refresh:{pk}"


def acquire(turn: str) -> int | None:
    """Take the turn; return the mark needed to release it, or None if another process has the turn."""
    mark = secrets.randbits(62)
    try:
        return mark if cache.add(turn, mark, timeout=LOCK_SECONDS) else None
    except _CACHE_DOWN:
        logger.warning("The cache cannot be reached; a token is refreshed without taking turns.")
        return mark


def release(turn: str, mark: int) -> None:
    """End our turn, unless it has expired and another process has taken it."""
    with suppress(*_CACHE_DOWN):  # the turn expires anyway
        rate_limit.client().eval(_DELETE_OURS, 1, cache.make_key(turn), mark)


def is_done(turns: Collection[str]) -> set[str]:
    """Return the turns that no process holds any more."""
    try:
        taken = cache.get_many(turns) if turns else {}
    except _CACHE_DOWN:
        taken = {}
    return {turn for turn in turns if turn not in taken}


def microsoft_just_failed(pk: int, now: datetime) -> bool:
    """Whether Microsoft just failed to answer or asked us to wait, so that another request would make things worse."""
    columns = ("trouble_at", "app_registration__paused_until")
    trouble_at, paused_until = Connection.objects.values_list(*columns).get(pk=pk)
    return is_trouble_recent(trouble_at, paused_until, now)


def is_trouble_recent(trouble_at: datetime | None, paused_until: datetime | None, now: datetime) -> bool:
    """Like microsoft_just_failed(), for columns that have already been read."""
    if paused_until is not None and paused_until > now:
        return True
    return trouble_at is not None and now - trouble_at < timedelta(seconds=TokenUnavailable.retry_after)


def may_refresh_early(pk: int, now: datetime) -> bool:
    """Whether a connection with a valid token may be refreshed once more within this minute."""
    state = rate_limit.count(f"early:{pk}", limit=MOST_EARLY, now=now)
    return state is None or not state.is_exceeded


def refresh_in_turn(pk: int, wanted: TokenRequirement) -> bool:
    """Refresh the connection unless its token meets ``wanted`` by now; return False if another process is doing so."""
    turn = lock_name(pk)
    mark = acquire(turn)
    if mark is None:
        return False
    try:
        # Another process may have refreshed it since the caller looked.
        now = timezone.now()
        connection = Connection.objects.filter(pk=pk).values_list("access_token", "expires_at").first()
        if connection is None:
            return True
        access_token, expires_at = connection
        is_early = bool(access_token and expires_at and expires_at > now)
        will_do = bool(access_token and expires_at and wanted.accepts(access_token, expires_at, now))
        if will_do or microsoft_just_failed(pk, now):
            return True
        if not is_early or may_refresh_early(pk, now):
            apply_results.apply(batch_client.request_tokens(scheduler.claim_one(pk, now=now)), now=now)
    finally:
        release(turn, mark)
    return True
