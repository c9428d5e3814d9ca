"""Refresh a connection on demand, once for all concurrent callers. The locks for this are in refresh_locks.py."""

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from connections.errors import TokenUnavailable
from connections.microsoft.token_endpoint import TokenSet
from connections.models import AppConsent, Connection, ResourceToken
from connections.services.api_keys import rate_limit
from connections.services.tokens import apply_results, batch_client, refresh_locks, resource_tokens, scheduler

GRANT_PATIENCE = 10.0  # seconds for which a refresh waits while another one uses the refresh token
# Refreshes per minute of a connection whose token is still valid. Without this limit, a caller that wants a longer
# lifetime than Microsoft grants would cause a request with every call, until Microsoft throttles the app registration.
MOST_EARLY = 10


def token_id(access_token: str) -> str:
    """Return an ID for a token, which reveals nothing about the token: the first half of its SHA-256 hash."""
    return hashlib.sha256(access_token.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class TokenRequirement:
    min_valid: int  # seconds for which the token must still be valid
    refused: str = ""  # token_id() of a token that Microsoft's services rejected before it expired

    def accepts(self, access_token: str, expires_at: datetime, now: datetime) -> bool:
        return expires_at >= now + timedelta(seconds=self.min_valid) and not self.refuses(access_token)

    def refuses(self, access_token: str) -> bool:
        return bool(self.refused) and self.refused == token_id(access_token)


def microsoft_just_failed(pk: int, now: datetime, resource: str = "") -> bool:
    """Whether Microsoft just failed to respond or asked us to wait, so that we don't send another request yet."""
    columns = ("trouble_at", "app_consent__paused_until")
    trouble_at, paused_until = Connection.objects.values_list(*columns).get(pk=pk)
    if resource:
        of_resource = ResourceToken.objects.filter(connection=pk, resource=resource)
        trouble_at = of_resource.values_list("trouble_at", flat=True).first()
    return is_trouble_recent(trouble_at, paused_until, now)


def is_trouble_recent(trouble_at: datetime | None, paused_until: datetime | None, now: datetime) -> bool:
    """Return the same as ``microsoft_just_failed``, for columns that have already been read."""
    if paused_until is not None and paused_until > now:
        return True
    return trouble_at is not None and now - trouble_at < timedelta(seconds=TokenUnavailable.retry_after)


def may_refresh_early(pk: int, now: datetime) -> bool:
    """Whether a connection with a valid token may be refreshed again within this minute."""
    state = rate_limit.count(f"early:{pk}", limit=MOST_EARLY, now=now)
    return state is None or not state.is_exceeded


def refresh_in_turn(pk: int, wanted: TokenRequirement, resource: str = "") -> bool:
    """Refresh the connection, unless its token meets ``wanted`` by now.

    Returns False if another process is refreshing it. ``resource`` is a resource other than that of the connection's
    own token. If the sweep or a refresh for another resource is using the refresh token, this waits until that is done.
    """
    turn = refresh_locks.lock_name(pk, resource)
    mark = refresh_locks.acquire(turn)
    if mark is None:
        return False
    try:
        with refresh_locks.grant_lock(pk, patience=GRANT_PATIENCE) as is_ours:
            if is_ours and _needs_refresh(pk, wanted, resource, now=timezone.now()):
                _refresh(pk, resource)
    finally:
        refresh_locks.release(turn, mark)
    return True


def _needs_refresh(pk: int, wanted: TokenRequirement, resource: str, *, now: datetime) -> bool:
    """Whether a request is needed. Another process may have refreshed the connection since the caller looked."""
    rows = Connection.objects.filter(pk=pk, status=Connection.Status.ACTIVE)
    if resource:
        rows = ResourceToken.objects.filter(connection=pk, resource=resource)  # type: ignore[assignment]
    stored = rows.values_list("access_token", "expires_at", "trouble_at").first()
    if stored is None:
        return False
    access_token, expires_at, trouble_at = stored
    is_early = bool(access_token and expires_at and expires_at > now)
    will_do = bool(access_token and expires_at and wanted.accepts(access_token, expires_at, now))
    paused_until = AppConsent.objects.filter(connections=pk).values_list("paused_until", flat=True).first()
    if will_do or is_trouble_recent(trouble_at, paused_until, now):
        return False
    return not is_early or may_refresh_early(pk, now)


def _refresh(pk: int, resource: str) -> None:
    now, began = timezone.now(), time.monotonic()
    if resource:
        resource_tokens.refresh(pk, resource, now=now)
        return
    results = batch_client.request_tokens(scheduler.claim_one(pk, now=now))
    is_renewed = any(isinstance(answer, TokenSet) for result in results for _, answer in result.answers)
    # A token's lifetime counts from the request, and a failure from its response, which may have taken long.
    answered = now + timedelta(seconds=time.monotonic() - began)
    apply_results.apply(results, now=now if is_renewed else answered)
