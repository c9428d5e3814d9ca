"""Decrypt every stored secret: count the values of each key, and report those that were moved or altered."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import DatabaseError, transaction

from connections import fields, keys
from connections.errors import AlteredSecret, UnreadableSecret
from connections.fields import Place, SecretField
from connections.models import Incident, KeyUsage
from connections.services.incidents import incidents
from connections.services.operations import secret_columns

logger = logging.getLogger(__name__)

BATCH = 500
EVERY = timedelta(hours=1)


@dataclass(slots=True)
class Count:
    """The values of all columns. ``unreadable`` and ``altered`` contain row numbers by "table.column"."""

    by_key: Counter[str] = field(default_factory=Counter)  # values that can be decrypted, by the id of their key
    unreadable: dict[str, list[int]] = field(default_factory=dict)
    altered: dict[str, list[int]] = field(default_factory=dict)


def count_due(*, now: datetime) -> None:
    """Count the stored secrets, unless the last count was less than an hour ago."""
    if not KeyUsage.objects.filter(counted_at__gt=now - EVERY).exists():
        count(now=now)


def count(*, now: datetime) -> Count:
    """Decrypt every value, store the number of values per key, and open or close the incidents about altered values.

    Call it outside transactions, because it may take minutes. Returns the counts.
    """
    total, usage = Count(), []
    altered: set[Place] = set()
    for column in secret_columns.secret_fields():
        name = f"{column.model._meta.db_table}.{column.column}"
        counter: Counter[tuple[str, bool]] = Counter()
        for batch in secret_columns.values(column, batch=BATCH):
            for stored in batch:
                key_id, is_altered = keys.id_in(stored.ciphertext), False
                try:
                    column.decrypt(stored.ciphertext, stored.identity)
                    total.by_key[key_id] += 1
                except AlteredSecret as error:
                    is_altered = True
                    altered.add(error.location)
                    total.altered.setdefault(name, []).append(stored.pk)
                except UnreadableSecret:
                    total.unreadable.setdefault(name, []).append(stored.pk)
                counter[key_id, is_altered] += 1
        usage += _usage(column, counter, now)
    with transaction.atomic():
        KeyUsage.objects.all().delete()
        KeyUsage.objects.bulk_create(usage, ignore_conflicts=True)  # another worker may count at the same time
    report(altered, now=now)
    fields.altered -= altered
    _close_others(altered, now=now)
    return total


def _usage(column: SecretField, counter: Counter[tuple[str, bool]], now: datetime) -> list[KeyUsage]:
    table = column.model._meta.db_table
    return [
        KeyUsage(table=table, column=column.column, key_id=key_id, altered=altered, count=number, counted_at=now)
        for (key_id, altered), number in counter.items()
    ]


def report_noted(*, now: datetime) -> None:
    """Open the incidents about altered values that this process has come across.

    If the database is unavailable, the values stay noted for the next time.
    """
    for location in list(fields.altered):
        try:
            with transaction.atomic():
                report([location], now=now)
        except DatabaseError:
            logger.exception("an altered secret could not be reported: %s", location)
        else:
            fields.altered.discard(location)


def report(locations: Iterable[Place], *, now: datetime) -> None:
    """Open one incident for each place whose value was moved or altered, unless it is open already."""
    for location in locations:
        what, pk = secret_columns.row_with(location.table, location.identity)
        if pk is None:
            continue  # the row was deleted in the meantime
        incidents.secret_altered(location, what, pk, now=now)


def _close_others(altered: Iterable[Place], *, now: datetime) -> None:
    """Close the incidents about places that contain a valid value again, or no value."""
    still = set()
    for location in altered:
        _, pk = secret_columns.row_with(location.table, location.identity)
        if pk is not None:
            still.add(incidents.altered_secret_key(location, pk))
    opened = Incident.objects.filter(kind=Incident.Kind.ALTERED_SECRET, closed_at=None)
    for key in opened.exclude(key__in=still).values_list("key", flat=True):
        incidents.secret_replaced(key, now=now)
