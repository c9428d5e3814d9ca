"""Keep the table of tallies small. Triggers on connections write it; see models/tallies.py and migration 0017."""

from django.db import connection as database
from django.db import transaction
from django.db.models import Sum

from connections.models import Tally

MOST = 50_000  # rows added up in one transaction
ROUNDS = 60  # transactions in one run, for an import of many connections

_COLLECT = """
WITH taken AS (
    DELETE FROM connections_tally WHERE id IN (
        SELECT id FROM connections_tally ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING subject, app_consent_id, value, change
), sums AS (
    INSERT INTO connections_tally (subject, app_consent_id, value, change)
    SELECT subject, app_consent_id, value, SUM(change) FROM taken GROUP BY subject, app_consent_id, value
    HAVING SUM(change) <> 0 RETURNING id
)
SELECT (SELECT COUNT(*) FROM taken) - (SELECT COUNT(*) FROM sums)
"""


def add_up() -> None:
    """Replace rows by their sums, the oldest first. Readers see the same counts before, meanwhile and afterwards."""
    for _ in range(ROUNDS):
        if _collect() * 2 < MOST:  # few rows are left, or most of them are sums
            return


def _collect() -> int:
    """Add up the oldest rows in one transaction, and return how many fewer there are."""
    if database.vendor == "postgresql":
        with database.cursor() as cursor:
            cursor.execute(_COLLECT, [MOST])
            return int(cursor.fetchone()[0])
    with transaction.atomic():
        ids = list(Tally.objects.order_by("pk").values_list("pk", flat=True)[:MOST])
        rows = Tally.objects.filter(pk__lte=ids[-1]) if ids else Tally.objects.none()
        sums = [
            Tally(subject=subject, app_consent_id=consent, value=value, change=total)
            for subject, consent, value, total in rows.order_by()
            .values_list("subject", "app_consent", "value")
            .annotate(total=Sum("change"))
            .exclude(total=0)
        ]
        rows.delete()
        Tally.objects.bulk_create(sums)
    return len(ids) - len(sums)
