"""Handing out access tokens: the stored one while it lasts, a fresh one when it does not, asked for once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from django.utils import timezone

from connections.errors import ConnectionUnusable, TokenUnavailable
from connections.models import Connection
from connections.services.tokens import single_flight
from connections.services.tokens.single_flight import TokenRequirement

LONGEST_WAIT = 10.0  # seconds a caller waits for a refresh
LONGEST_WAIT_FOR_BETTER = 3.0  # the same while there is a valid token that only does not last as long as asked
LOOK_EVERY = 0.1

# By name, so that exactly this one of the encrypted columns is read.
_COLUMNS = ("status", "status_cause", "status_action", "expires_at", "granted_scopes", "access_token")
# What ``offer`` needs of a connection.
TOKEN_COLUMNS = (*_COLUMNS, "app_registration_id")


class Refresh(StrEnum):
    """What has been done to get a caller a better token than the stored one."""

    NOT_TRIED = "not tried"
    UNFINISHED = "unfinished"  # the caller has waited as long as it may
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Token:
    """An access token on its way to an automation."""

    access_token: str = field(repr=False)
    expires_at: datetime
    scope: str
    # Why no fresher one could be had, if that was tried; the token is valid all the same.
    trouble: str = ""

    @property
    def id(self) -> str:
        """By which a caller tells that it was refused."""
        return single_flight.token_id(self.access_token)

    def is_as(self, wanted: TokenRequirement, now: datetime) -> bool:
        """Whether the caller gets what it asked for."""
        return wanted.accepts(self.access_token, self.expires_at, now)


def valid_access_token(connection: Connection, *, now: datetime, min_valid: int = 60) -> str:
    """An access token that lasts at least ``min_valid`` seconds more, if one can be had. Raises as ``hand_out``."""
    return get_token(connection, TokenRequirement(min_valid), now=now).access_token


def get_token(connection: Connection, wanted: TokenRequirement, *, now: datetime) -> Token:
    """A token as ``wanted``, refreshed inside the call when needed; one that lasts shorter if there is no better one.

    However many ask at once, Microsoft is asked by one of them, and the others wait for its answer. While a token is
    still valid, trouble at Microsoft is only a remark on it, unless it is the one that was refused. Raises
    ConnectionUnusable (its page says why), TryAgainSoon (nobody is to blame), UnreadableSecret.
    """
    found = _stored(connection.pk, now)
    if found is not None and found.is_as(wanted, now):
        return found
    refreshed = _refresh_once(connection.pk, found, wanted, now)
    if refreshed is not None:
        return refreshed
    return _all_there_is(found, wanted, in_vain=True)


def _all_there_is(token: Token | None, wanted: TokenRequirement, *, in_vain: bool) -> Token:
    """A token that lasts shorter than wanted is better than none; the refused one is not. Raises TokenUnavailable."""
    if token is None or wanted.refuses(token.access_token):
        raise TokenUnavailable
    return replace(token, trouble="microsoft_unavailable") if in_vain else token


class RefreshNeeded(Exception):
    """There may soon be a (longer lasting) token: try again once the connection is refreshed, or after ``patience``."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.patience = patience  # seconds


def choose(token: Token | None, wanted: TokenRequirement, *, now: datetime, refresh: Refresh, failed: bool) -> Token:
    """What a caller gets while ``token`` is the valid one that is stored, without ever waiting.

    ``failed``: Microsoft gave no answer a moment ago. Raises RefreshNeeded, TokenUnavailable.
    """
    if token is not None and token.is_as(wanted, now):
        return token
    if refresh is Refresh.NOT_TRIED and not failed:
        has_none = token is None or wanted.refuses(token.access_token)
        raise RefreshNeeded(LONGEST_WAIT if has_none else LONGEST_WAIT_FOR_BETTER)
    return _all_there_is(token, wanted, in_vain=failed or refresh is Refresh.UNFINISHED)


def stored_token(connection: Connection, *, now: datetime) -> Token | None:
    """The valid token that came with the connection, read with TOKEN_COLUMNS.

    Raises ConnectionUnusable, UnreadableSecret.
    """
    return valid_token(*(getattr(connection, name) for name in _COLUMNS), now=now)


def _stored(pk: int, now: datetime) -> Token | None:
    """The stored token if it is valid. Raises ConnectionUnusable if the connection is not well."""
    return valid_token(*Connection.objects.values_list(*_COLUMNS).get(pk=pk), now=now)


def valid_token(
    status: str,
    cause: str,
    action: str,
    expires_at: datetime | None,
    scope: str,
    access_token: str | None,
    *,
    now: datetime,
) -> Token | None:
    """The stored token if it is valid. Raises ConnectionUnusable if the connection is not well."""
    if status != Connection.Status.ACTIVE:
        raise ConnectionUnusable(cause or "Nobody has signed in for this connection yet.", action=action, code=status)
    if access_token is None or expires_at is None or expires_at <= now:
        return None
    return Token(access_token, expires_at, scope)


def _refresh_once(pk: int, before: Token | None, wanted: TokenRequirement, now: datetime) -> Token | None:
    """Refresh, or wait for whoever is refreshing; None if there is no other token than before."""
    if single_flight.microsoft_just_failed(pk, now):
        return None
    turn = single_flight.lock_name(pk)
    mark = single_flight.acquire(turn)
    if mark is not None:
        try:
            # Somebody may have been faster between the look and this turn.
            faster = _another(pk, before, now)
            if faster is not None and faster.is_as(wanted, now):
                return faster
            if before is not None and not single_flight.may_refresh_early(pk, now):
                return None if wanted.refuses(before.access_token) else before
            single_flight.refresh(pk, now=now)
        finally:
            single_flight.release(turn, mark)
        return _another(pk, before, now)
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        another = _another(pk, before, timezone.now())
        if another is not None or single_flight.is_done([turn]):
            return another
    return None


def _another(pk: int, before: Token | None, now: datetime) -> Token | None:
    after = _stored(pk, now)
    return after if after is not None and (before is None or after.access_token != before.access_token) else None
