"""Access tokens for callers: the stored one while it is valid, otherwise a new one, requested once for all of them."""

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
        """What a caller names it by when it was refused."""
        return single_flight.token_id(self.access_token)

    def is_as(self, wanted: TokenRequirement, now: datetime) -> bool:
        return wanted.accepts(self.access_token, self.expires_at, now)


def get_token(connection: Connection, wanted: TokenRequirement, *, now: datetime) -> Token:
    """A token as ``wanted``, refreshed inside the call when needed; one that lasts shorter if there is no better one.

    However many ask at once, Microsoft is asked by one of them, and the others wait for its answer. While a token is
    still valid, trouble at Microsoft is only a remark on it, unless it is the one that was refused. Raises
    ConnectionUnusable (its page says why), TokenUnavailable (nobody is to blame), UnreadableSecret.
    """
    refresh = Refresh.NOT_TRIED
    rows = Connection.objects.values_list(*_COLUMNS, "trouble_at", "app_registration__paused_until")
    while True:
        *columns, trouble_at, paused_until = rows.get(pk=connection.pk)
        failed = single_flight.is_trouble_recent(trouble_at, paused_until, now)
        try:
            return choose(valid_token(*columns, now=now), wanted, now=now, refresh=refresh, failed=failed)
        except RefreshNeeded:
            refresh = _refresh_or_wait(connection.pk, wanted)
        now = timezone.now()


def _refresh_or_wait(pk: int, wanted: TokenRequirement) -> Refresh:
    """Refresh, or wait for the process that is refreshing."""
    if single_flight.refresh_in_turn(pk, wanted):
        return Refresh.DONE
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        if single_flight.is_done([single_flight.lock_name(pk)]):
            return Refresh.DONE
    return Refresh.UNFINISHED


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
    # A token that lasts shorter than wanted is better than none; the refused one is not.
    is_usable = token is not None and not wanted.refuses(token.access_token)
    if refresh is Refresh.NOT_TRIED and not failed:
        raise RefreshNeeded(LONGEST_WAIT_FOR_BETTER if is_usable else LONGEST_WAIT)
    if token is None or not is_usable:
        raise TokenUnavailable
    return replace(token, trouble="microsoft_unavailable") if failed or refresh is Refresh.UNFINISHED else token


def stored_token(connection: Connection, *, now: datetime) -> Token | None:
    """The valid token of a connection read with TOKEN_COLUMNS. Raises ConnectionUnusable, UnreadableSecret."""
    return valid_token(*(getattr(connection, name) for name in _COLUMNS), now=now)


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
