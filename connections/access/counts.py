"""Row counts that stay fast in a large organisation."""

from typing import Any

from django.db.models import IntegerField, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from connections.models import Tally

MOST = 1000  # the highest number that is counted exactly


def capped(queryset: QuerySet[Any], most: int = MOST) -> int:
    """Count the rows, but stop after ``most`` + 1, which means "more than ``most``"."""
    return queryset.order_by().values("pk")[: most + 1].count()


class _CountOf(Subquery):
    """The number of rows of a sliced queryset."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()


def related(rows: QuerySet[Any], column: str, most: int = MOST) -> Subquery:
    """Return a subquery that counts the ``rows`` whose ``column`` refers to an object, up to ``most`` + 1.

    The rows are counted only for the objects on the page. Counting over a join would first count them for all objects.
    """
    # Selecting the column alone lets its index answer.
    return _CountOf(rows.filter(**{column: OuterRef("pk")}).order_by().values(column)[: most + 1])


def connections_of_apps(*conditions: Q) -> Coalesce:
    """Return a subquery with an app registration's number of connections, summed up from the Tally table.

    ``conditions`` filter the Tally rows.
    """
    rows = Tally.objects.connections().filter(*conditions, app_consent__app_registration=OuterRef("pk")).order_by()
    total = rows.values("app_consent__app_registration").annotate(total=Sum("change")).values("total")
    return Coalesce(Subquery(total, output_field=IntegerField()), 0)
