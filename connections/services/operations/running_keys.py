"""The encryption keys of the running processes. Each process announces its own keys every few seconds.

So an operator can check that every process has a new key before it is used. And if a process lacks a key, it can tell
whether the key is lost or only its own settings are outdated.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import DatabaseError
from django.utils import timezone

from connections import keys
from connections.errors import OutdatedKeys, UnreadableSecret
from connections.models import RunningProcess

logger = logging.getLogger(__name__)

ANNOUNCE_EVERY = 20.0  # seconds
# A process that has not been seen for this long has ended. A paused or busy one is seen again before that.
GONE_AFTER = timedelta(minutes=2)


def announce(name: str, *, now: datetime) -> None:
    """Record that the process called ``name`` runs with the current keys, and delete processes that ended long ago."""
    ids = list(keys.current().ids)
    RunningProcess.objects.update_or_create(
        name=name,
        defaults={"key_ids": ids, "seen_at": now},
        create_defaults={"key_ids": ids, "started_at": now, "seen_at": now},
    )
    RunningProcess.objects.filter(seen_at__lt=now - 10 * GONE_AFTER).delete()


def withdraw(name: str) -> None:
    """Record that the process has ended."""
    RunningProcess.objects.filter(name=name).delete()


def running(*, now: datetime) -> list[RunningProcess]:
    return list(RunningProcess.objects.filter(seen_at__gte=now - GONE_AFTER))


def without_key(key_id: str, *, now: datetime) -> list[RunningProcess]:
    """Return the running processes that do not have this key."""
    return [process for process in running(now=now) if key_id not in process.key_ids]


def known_elsewhere(*, now: datetime) -> set[str]:
    """Return the ids of keys that another process has and this one does not."""
    return {key_id for process in running(now=now) for key_id in process.key_ids} - set(keys.current().ids)


def encrypting_elsewhere(*, now: datetime) -> set[str]:
    """Return the ids of keys with which another process encrypts, but which this one does not have."""
    return {key_id for process in running(now=now) for key_id in process.key_ids[:1]} - set(keys.current().ids)


def explain(error: UnreadableSecret, *, now: datetime | None = None) -> UnreadableSecret:
    """Return OutdatedKeys instead of ``error`` if another process has the missing key. Never raises."""
    if not error.key_id:
        return error
    try:
        is_known = error.key_id in known_elsewhere(now=now or timezone.now())
    except DatabaseError:
        return error
    if not is_known:
        return error
    logger.error("This process runs with old encryption keys: another process has the key %s.", error.key_id)
    return OutdatedKeys(key_id=error.key_id)


def names(processes: Iterable[RunningProcess]) -> str:
    return ", ".join(process.name for process in processes)
