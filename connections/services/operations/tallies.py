"""Keep the table of tallies small. Triggers on connections write it; see models/tallies.py and migration 0017."""

from django.db import connection as database
from django.db import transaction
from django.db.models import Sum

from connections.models import Tally

MOST = 50_000  # rows replaced at a time

_COLLECT = """
WITH taken AS (
    DELETE FROM connections_tally WHERE id IN (
        SELECT id FROM connections_tally ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING subject, app_consent_id, value, change
)
INSERT INTO connections_tally (subject, app_consent_id, value, change)
SELECT subject, app_consent_id, value, SUM(change) FROM taken GROUP BY subject, app_consent_id, value
HAVING SUM(change) <> 0
"""


def add_up() -> None:
    """Replace the oldest rows by their sums. Readers see the same totals before, during and after that."""
    if database.vendor == "postgresql":
        with database.cursor() as cursor:
            cursor.execute(_COLLECT, [MOST])
        return
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
