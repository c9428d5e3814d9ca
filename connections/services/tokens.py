"""Handing out access tokens."""

from __future__ import annotations

from datetime import datetime, timedelta

from connections.errors import ConnectionUnusable
from connections.models import Connection
from connections.services import asking, keepalive, outcomes


def valid_access_token(connection: Connection, *, now: datetime, min_valid: int = 60) -> str:
    """An access token of this connection that lasts at least ``min_valid`` seconds more; refreshed if need be.

    Raises ConnectionUnusable if the connection is not well, or Microsoft gave no token just now; UnreadableSecret
    if a key is missing.
    """
    current = Connection.objects.get(pk=connection.pk)
    if current.status != Connection.Status.ACTIVE:
        raise ConnectionUnusable(current.status_cause, action=current.status_action)
    if (
        current.access_token is None
        or not current.expires_at
        or current.expires_at < now + timedelta(seconds=min_valid)
    ):
        outcomes.write(asking.ask(keepalive.claim_one(current.pk, now=now)), now=now)
        current = Connection.objects.get(pk=connection.pk)
    if current.access_token is None or not current.expires_at or current.expires_at <= now:
        raise ConnectionUnusable(current.status_cause, action=current.status_action)
    return str(current.access_token)
