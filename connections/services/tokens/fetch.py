"""Get access tokens for callers: the stored token while it is valid, otherwise a new one that all callers share."""

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from django.utils import timezone

from connections.errors import ConnectionUnusable, ResourceNotGranted, TokenUnavailable
from connections.microsoft import resources
from connections.models import Connection, ResourceToken
from connections.services.tokens import refresh_locks, resource_tokens, single_flight
from connections.services.tokens.single_flight import TokenRequirement

LONGEST_WAIT = 9.0  # seconds that a caller waits for a refresh; docs/api.md promises a response within ten
LONGEST_WAIT_FOR_BETTER = 3.0  # seconds, if the stored token is valid but expires too soon for the caller
LOOK_EVERY = 0.1

# Listed by name, so that no encrypted column except the access token is read.
_COLUMNS = ("status", "status_cause", "status_action", "expires_at", "granted_scopes", "access_token")
TOKEN_COLUMNS = (*_COLUMNS, "resource", "app_registration_id")


class Refresh(StrEnum):
    """The state of the refresh that is tried if the stored token is not good enough."""

    NOT_TRIED = "not tried"
    UNFINISHED = "unfinished"  # the caller has waited for the longest allowed time
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Token:
    access_token: str = field(repr=False)
    expires_at: datetime
    scope: str
    # The reason why a refresh failed, if one was tried. The token itself is valid.
    trouble: str = ""
    resource: str = resources.GRAPH

    @property
    def id(self) -> str:
        """The ID that a caller sends to report that a service rejected this token."""
        return single_flight.token_id(self.access_token)

    def is_as(self, wanted: TokenRequirement, now: datetime) -> bool:
        return wanted.accepts(self.access_token, self.expires_at, now)


def get_token(connection: Connection, wanted: TokenRequirement, *, now: datetime) -> Token:
    """Return a token that meets ``wanted``, refreshing it if necessary.

    Concurrent callers share one request to Microsoft. If that fails, the stored token is returned with a note
    (``trouble``), as long as it is valid and was not reported as rejected, even if it expires sooner than wanted.
    Raises ConnectionUnusable (the connection's page says why), TokenUnavailable (try again later) or UnreadableSecret.
    """
    refresh = Refresh.NOT_TRIED
    rows = Connection.objects.values_list(*_COLUMNS, "trouble_at", "app_consent__paused_until")
    while True:
        *columns, trouble_at, paused_until = rows.get(pk=connection.pk)
        failed = single_flight.is_trouble_recent(trouble_at, paused_until, now)
        try:
            return choose(valid_token(*columns, now=now), wanted, now=now, refresh=refresh, failed=failed)
        except RefreshNeeded:
            refresh = _refresh_or_wait(connection.pk, wanted)
        now = timezone.now()


def _refresh_or_wait(pk: int, wanted: TokenRequirement) -> Refresh:
    if single_flight.refresh_in_turn(pk, wanted):
        return Refresh.DONE
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        if refresh_locks.is_done([refresh_locks.lock_name(pk)]):
            return Refresh.DONE
    return Refresh.UNFINISHED


def is_refusal_recent(code: str, refused_at: datetime | None, now: datetime) -> bool:
    """Whether Microsoft refused a token for the resource so recently that we don't ask again yet."""
    return bool(code) and refused_at is not None and now - refused_at < resource_tokens.RETRY_REFUSED


class RefreshNeeded(Exception):
    """A better token may be available soon. Try again when the connection has been refreshed, or after ``patience``."""

    def __init__(self, patience: float) -> None:
        super().__init__()
        self.patience = patience  # seconds


def choose(token: Token | None, wanted: TokenRequirement, *, now: datetime, refresh: Refresh, failed: bool) -> Token:
    """Return the token that the caller gets. Raises RefreshNeeded or TokenUnavailable.

    ``failed`` says that Microsoft has just failed to issue a token.
    """
    if token is not None and token.is_as(wanted, now):
        return token
    # A token with a shorter lifetime than wanted is better than none, but a rejected token is useless.
    is_usable = token is not None and not wanted.refuses(token.access_token)
    if refresh is Refresh.NOT_TRIED and not failed:
        raise RefreshNeeded(LONGEST_WAIT_FOR_BETTER if is_usable else LONGEST_WAIT)
    if token is None or not is_usable:
        raise TokenUnavailable
    return replace(token, trouble="microsoft_unavailable") if failed or refresh is Refresh.UNFINISHED else token


def stored_token(connection: Connection, *, now: datetime) -> Token | None:
    """Return ``valid_token`` of a connection that was read with TOKEN_COLUMNS. May also raise UnreadableSecret."""
    return valid_token(*(getattr(connection, name) for name in _COLUMNS), now=now, resource=connection.resource)


def stored_resource_token(connection: Connection, resource: str, *, now: datetime) -> Token | None:
    """Return the stored token for another resource, as ``stored_token`` does.

    Also raises ConnectionUnusable if the connection has no access to the resource, or Microsoft has just refused it.
    """
    rows = ResourceToken.objects.filter(connection=connection, resource=resource).defer(None)
    row = rows.first()
    values = (None, "", None) if row is None else (row.expires_at, row.granted_scopes, row.access_token)
    state = (connection.status, connection.status_cause, connection.status_action)
    token = valid_token(*state, *values, now=now, resource=resource)
    if row is None:
        raise ResourceNotGranted(f"This connection has no access to {resources.label(resource)}.")
    if token is None and is_refusal_recent(row.problem_code, row.problem_at, now):
        refusal = ConnectionUnusable(row.problem_cause, action=row.problem_action, code=row.problem_status)
        refusal.who = row.problem_who
        raise refusal
    return token


def valid_token(
    status: str,
    cause: str,
    action: str,
    expires_at: datetime | None,
    scope: str,
    access_token: str | None,
    *,
    now: datetime,
    resource: str = resources.GRAPH,
) -> Token | None:
    """Return the stored token, or None if it has expired. Raises ConnectionUnusable if the connection is not active."""
    if status != Connection.Status.ACTIVE:
        raise ConnectionUnusable(cause or "Nobody has signed in for this connection yet.", action=action, code=status)
    if access_token is None or expires_at is None or expires_at <= now:
        return None
    return Token(access_token, expires_at, scope, resource=resource)
