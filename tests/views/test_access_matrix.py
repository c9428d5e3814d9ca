"""Who can use what now: true to the shares, filtered, exported, and bounded."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import AuditEvent, Connection, Share, Team, TeamMember, User
from connections.services.sharing import access_matrix
from tests import factories
from tests.views.pages import assert_hides, assert_shows, text


@pytest.fixture
def shared(bob: User, dave: User) -> Connection:
    """Create a connection that dave may use and a team with una may manage, and another that nobody else uses."""
    connection = factories.make_connection(owner=bob, name="Invoices")
    factories.make_connection(owner=bob, name="Private")
    team = Team.objects.create(name="Accounting")
    TeamMember.objects.create(team=team, user=factories.make_person("una"))
    Share.objects.create(connection=connection, person=dave, until=timezone.now() + timedelta(days=3))
    Share.objects.create(connection=connection, team=team, level="manage")
    Share.objects.create(
        connection=connection, person=factories.make_person("eve"), until=timezone.now() - timedelta(days=1)
    )
    return connection


def test_it_shows_each_active_share_and_no_expired_one(admin: Client, shared: Connection) -> None:
    page = text(admin.get("/access/")).partition("<main")[2]
    assert_shows(page, "Dave Stranger", "Accounting</a>", "Can use", "expires", "in 3 days", "Can manage", "Private")
    assert_hides(page, "Eve Expired")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=invoi", {"Invoices"}),
        ("q=dave", {"Invoices"}),
        ("q=una", {"Invoices"}),  # as a member of the team
        ("q=bob", {"Invoices", "Private"}),
        ("q=eve", set()),
        ("shared=person", {"Invoices"}),
        ("shared=team", {"Invoices"}),
        ("shared=none", {"Private"}),
    ],
)
def test_it_finds_connections_by_who_can_use_them(
    admin: Client, shared: Connection, query: str, names: set[str]
) -> None:
    assert {row.connection.name for row in admin.get(f"/access/?{query}").context["matrix"].rows} == names


def test_the_export_has_a_line_for_each_share_on_the_page(auditor: Client, shared: Connection) -> None:
    response = auditor.post("/access/export.csv?q=invoi")
    lines = b"".join(response.streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3
    assert lines[1].startswith(f"{shared.pk},Invoices,Bob Member,Dave Stranger,person,use,")
    assert lines[2] == f"{shared.pk},Invoices,Bob Member,Accounting,team,manage,"
    event = AuditEvent.objects.get(action="list.exported")
    assert (event.target_name, event.changes) == ("Access", {"q": "invoi", "rows": 2, "complete": True})


def test_many_shares_cost_no_more_queries_and_no_more_columns(admin: Client, bob: User, max_queries: Any) -> None:
    connections = [factories.make_connection(owner=bob, name=f"Number {number:02}") for number in range(30)]
    for number in range(20):
        person = factories.make_person(f"person{number}")
        Share.objects.create(connection=connections[0], person=person)
    with max_queries(12):
        response = admin.get("/access/")
    matrix = response.context["matrix"]
    assert len(matrix.rows) == 25
    assert len(matrix.columns) == access_matrix.MOST_COLUMNS
    assert matrix.rows[0].others == 20 - access_matrix.MOST_COLUMNS
