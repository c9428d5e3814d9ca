"""Refresh a connection on demand: once, however many callers and processes ask. The turn is in the cache."""

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

# The turn ends by itself if its holder dies; longer than asking Microsoft can take.
LOCK_SECONDS = 30
# In a minute, for one connection whose token is still valid: a caller who wants one that lasts longer than Microsoft's
# tokens do would otherwise cause a question at every call, until Microsoft makes the whole app registration wait.
MOST_EARLY = 10

# Looking and deleting in two steps could delete what another one has taken in between.
_DELETE_OURS = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

# Without the cache every process has its turn: Microsoft is asked more often, and automations get their tokens.
_CACHE_DOWN = (RedisError, OSError)


def token_id(access_token: str) -> str:
    """A name for a token which tells nothing of it: the first half of its SHA-256."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TokenRequirement:
    min_valid: int  # seconds it must last at least
    refused: str = ""  # id_of a token which Microsoft's services did not accept, though its time is not over

    def accepts(self, access_token: str, expires_at: datetime, now: datetime) -> bool:
        return expires_at >= now + timedelta(seconds=self.min_valid) and not self.refuses(access_token)

    def refuses(self, access_token: str) -> bool:
        return bool(self.refused) and self.refused == token_id(access_token)


def lock_name(pk: int) -> str:
    return f"refresh:{pk}"


def acquire(turn: str) -> int | None:
    """Take the turn; returns the mark for releasing it, or None if another process has it."""
    mark = secrets.randbits(62)
    try:
        return mark if cache.add(turn, mark, timeout=LOCK_SECONDS) else None
    except _CACHE_DOWN:
        logger.warning("The cache cannot be reached; a token is refreshed without taking turns.")
        return mark


def release(turn: str, mark: int) -> None:
    """End our turn, unless it expired and another process has it already."""
    with suppress(*_CACHE_DOWN):  # it ends by itself
        rate_limit.client().eval(_DELETE_OURS, 1, cache.make_key(turn), mark)


def is_done(turns: Collection[str]) -> set[str]:
    """Those of the refreshes that no process is working on."""
    try:
        taken = cache.get_many(turns) if turns else {}
    except _CACHE_DOWN:
        taken = {}
    return {turn for turn in turns if turn not in taken}


def microsoft_just_failed(pk: int, now: datetime) -> bool:
    """Whether Microsoft did not answer a moment ago, or asked to wait: polling would make it worse."""
    columns = ("trouble_at", "app_registration__paused_until")
    trouble_at, paused_until = Connection.objects.values_list(*columns).get(pk=pk)
    return is_trouble_recent(trouble_at, paused_until, now)


def is_trouble_recent(trouble_at: datetime | None, paused_until: datetime | None, now: datetime) -> bool:
    """The same for the columns of the connection and its app registration."""
    if paused_until is not None and paused_until > now:
        return True
    return trouble_at is not None and now - trouble_at < timedelta(seconds=TokenUnavailable.retry_after)


def may_refresh_early(pk: int, now: datetime) -> bool:
    """Whether Microsoft may be asked once more in this minute, although there is a valid token."""
    state = rate_limit.count(f"early:{pk}", limit=MOST_EARLY, now=now)
    return state is None or not state.is_exceeded


def refresh_in_turn(pk: int, wanted: TokenRequirement) -> bool:
    """Refresh the connection, unless its token is as ``wanted`` by now; False if another process is at it."""
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
