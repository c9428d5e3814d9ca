"""Encrypt every stored secret with the first key while the portal keeps running.

A run needs no memory of the last one: it handles all values that are not encrypted with the first key. A value is
replaced only if it is still the one that was read, so newer values are never overwritten, and tokens keep their
version.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from connections import audit, keys
from connections.errors import PortalError, UnreadableSecret
from connections.fields import Ciphertext, SecretField
from connections.models.audit import AuditAction
from connections.services.operations import running_keys, secret_columns
from connections.services.operations.secret_columns import StoredValue

BATCH = 200
PASSES = 5  # passes over a column while other processes keep writing values with another key
PAUSE = 0.2  # seconds between two passes


class KeyNotKnownEverywhere(PortalError):
    """A running process could not decrypt what is encrypted with the first key."""

    code = "key_not_known_everywhere"
    status = 409


@dataclass(slots=True)
class Rotation:
    """The result of a rotation. ``left`` counts values that other processes kept rewriting with another key.

    Run the rotation again for these.
    """

    key_id: str
    rotated: int = 0
    left: int = 0
    unreadable: dict[str, list[int]] = field(default_factory=dict)  # row numbers by "table.column"


Report = Callable[[str, int], None]  # gets a column's name, and how many of its values were encrypted again so far


def rotate(*, now: datetime, report: Report, force: bool = False, batch: int = BATCH) -> Rotation:
    """Encrypt every stored secret with the first key. Call it outside transactions.

    Raises KeyNotKnownEverywhere if a running process does not have this key, unless ``force`` is set.
    """
    rotation = Rotation(keys.current().ids[0])
    unaware = running_keys.without_key(rotation.key_id, now=now)
    if unaware and not force:
        raise KeyNotKnownEverywhere(
            f"These processes don't know the key {rotation.key_id}: {running_keys.names(unaware)}.",
            action="Give every process the new key, as the second one at first, and restart it or send it SIGHUP.",
        )
    for column in secret_columns.secret_fields():
        _rotate_column(column, rotation, report, batch)
    if rotation.rotated:
        facts = {"key": rotation.key_id, "values": rotation.rotated, "left": rotation.left}
        subject = audit.Subject("EncryptionKey", rotation.key_id, f"Encryption key {rotation.key_id}")
        audit.record(AuditAction.ENCRYPTION_KEYS_ROTATED, subject, actor=None, changes=facts)
    return rotation


def _rotate_column(column: SecretField, rotation: Rotation, report: Report, batch: int) -> None:
    name = f"{column.model._meta.db_table}.{column.column}"
    done = 0
    for number in range(PASSES):
        if number:
            time.sleep(PAUSE)
        left, unreadable = 0, []
        for stored in secret_columns.values(column, batch=batch, except_key=rotation.key_id):
            changes = _encrypt_anew(column, stored)
            replaced = secret_columns.replace(column, changes)
            unreadable += _unopened(stored, changes)
            left += len(changes) - replaced
            done += replaced
            report(name, done)
        if not left:
            break
    rotation.rotated += done
    rotation.left += left
    if unreadable:
        rotation.unreadable[name] = unreadable


def _encrypt_anew(column: SecretField, batch: list[StoredValue]) -> list[tuple[StoredValue, Ciphertext]]:
    changes = []
    for stored in batch:
        try:
            secret = column.decrypt(stored.ciphertext, stored.identity)
        except UnreadableSecret:
            continue
        changes.append((stored, column.encrypt(secret, stored.identity)))
    return changes


def _unopened(batch: list[StoredValue], changes: list[tuple[StoredValue, Ciphertext]]) -> list[int]:
    opened = {stored.pk for stored, _ in changes}
    return [stored.pk for stored in batch if stored.pk not in opened]
