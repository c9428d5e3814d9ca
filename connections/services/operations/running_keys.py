"""Which encryption keys the running processes have. Each process announces its own every few seconds.

So an operator can check that every process knows a new key before it is used, and a process that meets a key it does
not know can tell whether the key is lost or whether only its own settings are old.
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
# A process that has not been seen for this long has ended. Long enough for a paused or busy one.
GONE_AFTER = timedelta(minutes=2)


def announce(name: str, *, now: datetime) -> None:
    """Say that the process called ``name`` runs with the current keys, and forget those that have ended."""
    ids = list(keys.current().ids)
    RunningProcess.objects.update_or_create(
        name=name,
        defaults={"key_ids": ids, "seen_at": now},
        create_defaults={"key_ids": ids, "started_at": now, "seen_at": now},
    )
    RunningProcess.objects.filter(seen_at__lt=now - 10 * GONE_AFTER).delete()


def withdraw(name: str) -> None:
    """Say that the process has ended."""
    RunningProcess.objects.filter(name=name).delete()


def running(*, now: datetime) -> list[RunningProcess]:
    return list(RunningProcess.objects.filter(seen_at__gte=now - GONE_AFTER))


def without_key(key_id: str, *, now: datetime) -> list[RunningProcess]:
    """The running processes that do not know this key."""
    return [process for process in running(now=now) if key_id not in process.key_ids]


def known_elsewhere(*, now: datetime) -> set[str]:
    """The ids of keys that another process has and this one does not."""
    return {key_id for process in running(now=now) for key_id in process.key_ids} - set(keys.current().ids)


def encrypting_elsewhere(*, now: datetime) -> set[str]:
    """The ids of keys with which another process encrypts and which this one does not know."""
    return {key_id for process in running(now=now) for key_id in process.key_ids[:1]} - set(keys.current().ids)


def explain(error: UnreadableSecret, *, now: datetime | None = None) -> UnreadableSecret:
    """Return OutdatedKeys in place of ``error`` if another process has the key that is missing here. Never raises."""
    if not error.key_id:
        return error
    try:
        is_known = error.key_id in known_elsewhere(now=now or timezone.now())
    except DatabaseError:
        return error
    if not is_known:
        return error
    logger.error("This process runs with old encryption keys: another one has the key %s.", error.key_id)
    return OutdatedKeys(key_id=error.key_id)


def names(processes: Iterable[RunningProcess]) -> str:
    return ", ".join(process.name for process in processes)
