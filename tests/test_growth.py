"""No page and no API route costs more in a large organisation, on PostgreSQL.

Every GET of the permission table is requested with 5,000 and with 20,000 connections (and in proportion people, shares,
audit events, token requests …), with searches, filters and the second page of its list. A new page is covered by itself.
``make bench-growth`` does the same with a million connections, in milliseconds.
"""

import pytest
from django.db import connection as database

from tests import full_dataset, growth_probe, large_dataset, permissions_table

pytestmark = [pytest.mark.django_db, pytest.mark.only_on("postgres")]

SMALL, LARGE = 5_000, 20_000
MORE_QUERIES = 3  # a list with a second page is counted, and the navigation shows what waits
FACTOR, FEW_ROWS = 1.5, 5_000  # short tables are read at once; a scan of a large one reads 15,000 more
# Routes that may read more, with the reason.
EXCEPTIONS = {
    "access_matrix": "A search reads what twenty people and teams can use: up to 2,000 shares and 1,000 connections a kind.",
}


def test_no_page_and_no_route_grows_with_the_organisation(contoso: full_dataset.World) -> None:
    with database.cursor() as cursor:
        cursor.execute("SET LOCAL jit = off")
    large_dataset.fill(contoso, SMALL)
    small = {cost.name: cost for cost in growth_probe.Probe(contoso).costs()}
    large_dataset.fill(contoso, LARGE, after=SMALL)
    large = {cost.name: cost for cost in growth_probe.Probe(contoso).costs()}
    assert len(large) > 300, "the permission table has more routes than this"
    grown = [
        f"{name}: {before.queries} to {cost.queries} queries, {before.rows:,} to {cost.rows:,} rows\n"
        f"    {cost.statements[0].sql[:400] if cost.statements else ''}"
        for name, cost in large.items()
        if name.split()[0] not in EXCEPTIONS
        for before in [small.get(name, cost)]
        if cost.queries > before.queries + MORE_QUERIES or cost.rows > FACTOR * before.rows + FEW_ROWS
    ]
    assert not grown, "These grow with the organisation:\n" + "\n".join(grown)


def test_every_exception_is_a_route() -> None:
    """An exception whose page is gone must go, too."""
    routes = {row.name for row in (*permissions_table.rows(), *permissions_table.api_rows())}
    assert set(EXCEPTIONS) <= routes


def test_the_probe_sees_a_scan_of_a_large_table(contoso: full_dataset.World) -> None:
    """Otherwise the test above could not fail."""
    large_dataset.fill(contoso, 1_000)
    statement = growth_probe.Probe(contoso)._measure(
        "SELECT COUNT(*) FROM connections_connection WHERE account_name = %s", ("nobody",)
    )
    assert statement.rows > 1_000
