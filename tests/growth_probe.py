"""What the pages and API routes of the permission table cost: queries, rows that PostgreSQL reads, milliseconds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from django.db import connection as database
from django.test import Client

from tests import factories, permissions_table
from tests.asgi_client import PortalClient
from tests.full_dataset import World

READERS = ("bob", "alice", "carol")  # a member, an IT admin and an auditor
SEARCHES = ("inv", "surname12", "no-such-thing")  # in every second row, in few, in none
API_WITH_SEARCH = ("list_mailboxes", "list_people", "list_teams")
# They talk to Microsoft or to other processes, or send a whole table.
LEFT_OUT = ("readyz", "review_export", "api:export_review", "api:export_audit_events", "confirm_continue")


_numbers = count(1)  # of keys


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    rows: int  # read from tables and indexes, also those that a filter removed
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """One request. ``statements`` are its SELECTs, the most expensive first."""

    name: str
    queries: int
    statements: tuple[Statement, ...]

    @property
    def rows(self) -> int:
        return sum(statement.rows for statement in self.statements)

    @property
    def milliseconds(self) -> float:
        return sum(statement.milliseconds for statement in self.statements)


def _readers(row: permissions_table.Row) -> list[str]:
    """Return who may see it. What the auditor sees differs from what the IT admin sees on the start page only."""
    readers = [reader for reader in READERS if row.of(reader) == "200"]
    return readers if row.name == "home" or "alice" not in readers else [name for name in readers if name != "carol"]


class Probe:
    """Requests every route as every reader. Create it once per dataset and size."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.browsers = {name: factories.signed_in(world.people[name]) for name in READERS}
        self.keys = {
            name: factories.make_key(world.people[name], name=f"Probe {next(_numbers)}")[1] for name in READERS
        }
        self._known: dict[tuple[str, str], Statement] = {}

    def costs(self, only: str = "") -> Iterator[Cost]:
        """Yield the cost of each route that contains ``only``, with searches, filters and the next page of lists."""
        for rows, visit in ((permissions_table.rows(), self._page), (permissions_table.api_rows(), self._route)):
            for row in rows:
                if row.method == "GET" and only in row.route and row.name not in LEFT_OUT:
                    for reader in _readers(row):
                        yield from visit(row, reader)

    def _page(self, row: permissions_table.Row, reader: str) -> Iterator[Cost]:
        path, client = self.world.url(row.name, row.route.partition("/")[2]), self.browsers[reader]
        first, response = self._request(f"{row.route} {reader}", client, path)
        yield first
        context = response.context or {}
        filters, page = context.get("filters"), context.get("page")
        queries = [f"?q={text}" for text in SEARCHES] if getattr(filters, "columns", ()) else []
        queries += [
            f"?{choice.name}={value}" for choice in getattr(filters, "choices", ()) for value, _ in choice.options[:2]
        ]
        queries += [url for url in [getattr(page, "next_url", "")] if url]
        for sort in getattr(filters, "sorts", ())[1:]:
            sorted_page, response = self._request(
                f"{row.route} {reader} ?sort={sort.name}", client, f"{path}?sort={sort.name}"
            )
            yield sorted_page
            queries += [url for url in [response.context["page"].next_url] if url]
        for query in queries:
            yield self._request(f"{row.route} {reader} {query[:24]}", client, path + query)[0]

    def _route(self, row: permissions_table.Row, reader: str) -> Iterator[Cost]:
        client = PortalClient(headers={"Authorization": f"Bearer {self.keys[reader]}"})
        path = self.world.url(row.name)
        first, response = self._request(f"{row.route} key of {reader}", client, path)
        yield first
        queries = [f"?q={text}" for text in SEARCHES] if row.name.removeprefix("api:") in API_WITH_SEARCH else []
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        body = json.loads(response.content) if is_json else {}
        queries += [f"?after={body['next']}"] if isinstance(body, dict) and body.get("next") else []
        for query in queries:
            yield self._request(f"{row.route} key of {reader} {query[:24]}", client, path + query)[0]

    def _request(self, name: str, client: Client, path: str) -> tuple[Cost, Any]:
        statements: list[tuple[str, Any]] = []

        def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            statements.append((sql, params))
            return execute(sql, params, many, context)

        with database.execute_wrapper(note):
            response = client.get(path)
        assert response.status_code == 200, (name, path, response.status_code)
        selects = [(sql, params) for sql, params in statements if sql.startswith("SELECT")]
        measured = [self._measure(sql, params) for sql, params in selects]
        ordered = tuple(sorted(measured, key=lambda statement: -statement.rows))
        return Cost(name, len(statements), ordered), response

    def _measure(self, sql: str, params: Any) -> Statement:
        key = (sql, repr(params))
        if key not in self._known:
            with database.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql.removesuffix(' FOR UPDATE')}", params)
                (plan,) = cursor.fetchone()
            plan = json.loads(plan) if isinstance(plan, str) else plan
            took = plan[0]["Planning Time"] + plan[0]["Execution Time"]
            self._known[key] = Statement(sql, _rows_read(plan[0]["Plan"]), took)
        return self._known[key]


def _rows_read(node: dict[str, Any]) -> int:
    """Sum up the rows of all scans, including those that were removed by a filter or a recheck."""
    read, kind = 0.0, node["Node Type"]
    # A bitmap index scan counts dead rows, and the heap scan above it counts the others.
    if kind.endswith("Scan") and not kind.startswith(("Subquery", "CTE", "Bitmap Index")):
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
        read = (node["Actual Rows"] + sum(node.get(name, 0) for name in removed)) * node["Actual Loops"]
    return round(read) + sum(_rows_read(child) for child in node.get("Plans", ()))
