"""The number of connections in each effective state, from the stored tallies (models/tallies.py).

Up to EXACT connections that wait for sign-in, consent or approval are counted exactly. Beyond that, they are counted by
stored status, which does not tell what they wait for.
"""

from collections import Counter

from django.db.models import Q, QuerySet

from connections import effective_status
from connections.effective_status import INCOMPLETE, EffectiveStatus
from connections.models import AppRegistration, Connection, Tally
from connections.models.tallies import TallyQuerySet

EXACT = 10_000
_REJECTED = Q(app_consent__rejected_at__isnull=False) | Q(app_consent__app_registration__rejected_at__isnull=False)


def of_organization() -> Counter[EffectiveStatus]:
    return _count(Tally.objects.connections(), Connection.objects.all())


def of_app(app: AppRegistration) -> Counter[EffectiveStatus]:
    tallies = Tally.objects.connections().filter(app_consent__app_registration=app)
    return _count(tallies, Connection.objects.filter(app_registration=app))


def _count(tallies: TallyQuerySet, connections: QuerySet[Connection]) -> Counter[EffectiveStatus]:
    stored: dict[str, int] = dict(tallies.totals("value"))
    rejected: dict[str, int] = dict(tallies.filter(_REJECTED, value=Connection.Status.ACTIVE).totals("value"))
    counts = Counter({EffectiveStatus(status): number for status, number in stored.items()})
    blocked_by_app = rejected.get(Connection.Status.ACTIVE, 0)
    # The two numbers are read one after the other, and connections may change in between.
    counts[EffectiveStatus.ACTIVE] = max(0, counts[EffectiveStatus.ACTIVE] - blocked_by_app)
    counts[EffectiveStatus.APP_REJECTED] = blocked_by_app
    incomplete = [EffectiveStatus(status) for status in INCOMPLETE]
    if 0 < sum(counts[status] for status in incomplete) <= EXACT:
        for status in incomplete:
            del counts[status]
        counts.update(effective_status.count_incomplete(connections))
    return counts
