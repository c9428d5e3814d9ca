"""The list of connections: order, columns, saved views, row menus and the download."""

import csv
import io
import uuid
from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections import effective_status
from connections.models import AuditEvent, Connection, SavedView, Share, User
from connections.services.connections import connections
from connections.views import connection_list
from tests import browser_sessions, factories


@pytest.fixture
def three(bob: User) -> list[Connection]:
    return [factories.make_connection(name=name) for name in ("Middle", "Zebra", "Archive")]


def names(answer: Any) -> list[str]:
    return [row["connection"].name for row in answer.context["rows"]]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("", ["Archive", "Middle", "Zebra"]),
        ("nonsense", ["Archive", "Middle", "Zebra"]),
        ("-name", ["Zebra", "Middle", "Archive"]),
        ("created", ["Middle", "Zebra", "Archive"]),
        ("-created", ["Archive", "Zebra", "Middle"]),
    ],
)
def test_every_order_works_across_pages(
    member: Client, three: list[Connection], sort: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names(member.get("/connections/", {"sort": sort})) == expected
    for number in range(50):
        factories.make_connection(name=f"Between {number:02}")
    first = member.get("/connections/", {"sort": sort})
    second = member.get(f"/connections/{first.context['page'].next_url}")
    seen = names(first) + names(second)
    assert len(seen) == len(set(seen)) == 53
    assert [name for name in seen if not name.startswith("Between")] == expected


def test_it_is_sorted_by_status_with_problems_first_across_pages_in_both_directions(member: Client, bob: User) -> None:
    states = ["active", "disabled", "reconnect_needed", "blocked", "pending", "consent_needed"]
    for number in range(60):
        factories.make_connection(name=f"Connection {number % 7} {number:02}", status=states[number % len(states)])
    rejected = factories.make_app_registration(name="Rejected", client_id=str(uuid.uuid4()), rejected_at=timezone.now())
    factories.make_connection(name="Stopped by its app", app_registration=rejected)
    for sort, problems_first in (("status", True), ("-status", False)):
        first = member.get("/connections/", {"sort": sort})
        second = member.get(f"/connections/{first.context['page'].next_url}")
        back = member.get(f"/connections/{second.context['page'].previous_url}")
        assert names(back) == names(first)
        rows = [row["connection"] for answer in (first, second) for row in answer.context["rows"]]
        shown = list(dict.fromkeys(str(effective_status.of(row)) for row in rows))
        expected = ["app_rejected", "reconnect_needed", "consent_needed", "blocked", "pending", "disabled", "active"]
        assert shown == (expected if problems_first else expected[::-1])
        assert len({row.pk for row in rows}) == len(rows) == 61
        assert all(
            [row.name for row in rows if row.status == state] == sorted(row.name for row in rows if row.status == state)
            for state in states[1:]
        )
    filtered = member.get("/connections/?sort=status&status=blocked")
    assert {row["connection"].status for row in filtered.context["rows"]} == {"blocked"}
    lines = rows_of(member.post("/connections/export.csv?sort=status"))[1:]
    assert [line[1] for line in lines] == [row.name for row in reversed_states(rows)]


def reversed_states(rows: list[Connection]) -> list[Connection]:
    """Return the rows with their groups by state in the opposite order."""
    groups: dict[str, list[Connection]] = {}
    for row in rows:
        groups.setdefault(effective_status.of(row), []).append(row)
    return [row for group in reversed(groups.values()) for row in group]


def test_it_is_sorted_by_the_name_of_the_owner_that_it_shows(admin: Client, bob: User, dave: User) -> None:
    zoe = factories.make_person("aaa", first_name="Zoe", last_name="")
    for number in range(20):
        for owner in (zoe, dave, bob):
            factories.make_connection(name=f"{number:02} of {owner.username}", owner=owner)
    first = admin.get("/connections/?sort=owner")
    second = admin.get(f"/connections/{first.context['page'].next_url}")
    seen = names(first) + names(second)
    assert seen == [f"{number:02} of {name}" for name in ("bob", "dave", "aaa") for number in range(20)]
    first = admin.get("/connections/?sort=-owner")
    assert names(first) + names(admin.get(f"/connections/{first.context['page'].next_url}")) == seen[::-1]
    assert 'aria-sort="descending"><a href="?sort=owner">Owner' in first.content.decode()


@pytest.mark.parametrize("key", ["WyJ4Il0", "WyI5OSIsICJhIiwgIjEiXQ", "WyIwIiwgIm4iLCAieCJd"])
def test_an_invalid_key_of_an_order_in_parts_shows_the_first_page(
    member: Client, three: list[Connection], key: str
) -> None:
    assert len(names(member.get("/connections/", {"sort": "status", "after": key}))) == 3


def test_headers_turn_the_order_round_and_keep_the_filters(member: Client, three: list[Connection]) -> None:
    page = member.get("/connections/?status=active").content.decode()
    assert 'aria-sort="ascending"><a href="?status=active&amp;sort=-name"' in page
    page = member.get("/connections/?status=active&sort=-name").content.decode()
    assert 'aria-sort="descending"><a href="?status=active&amp;sort=name"' in page


def test_each_person_chooses_columns(member: Client, admin: Client, three: list[Connection], bob: User) -> None:
    answer = member.post("/connections/columns/?status=active", {"column": ["created", "type", "evil"]})
    assert answer["Location"] == "/connections/?status=active"
    page = member.get("/connections/")
    assert page.context["columns"] == ["type", "created"]
    assert "Last refreshed</th>" not in page.content.decode()
    bob.refresh_from_db()
    assert bob.list_columns == {"connections": ["created", "type"]}
    assert admin.get("/connections/").context["columns"] == ["owner", "app", "refreshed", "expires"]
    member.post("/connections/columns/")
    assert member.get("/connections/").context["columns"] == []


def test_a_view_of_the_list_is_saved_and_deleted(member: Client, stranger: Client, three: list[Connection]) -> None:
    form = {"page": "connections", "name": "Mine", "query": "status=active&sort=-name"}
    assert member.post("/views/add/", form)["Location"] == "/connections/?status=active&sort=-name"
    page = member.get("/connections/?status=active&sort=-name").content.decode()
    assert 'aria-current="page">Mine' in page
    view = SavedView.objects.get()
    assert "Mine" not in stranger.get("/connections/").content.decode()
    assert stranger.post(f"/views/{view.pk}/remove/").status_code == 404
    assert member.post(f"/views/{view.pk}/remove/")["Location"] == "/connections/"
    assert member.post("/views/add/", {"page": "policy", "name": "x"})["Location"] == "/?"
    assert not SavedView.objects.exists()


def menu(client: Client, connection: Connection) -> set[str]:
    offered = client.get("/connections/").context["menus"][connection.pk]
    return {name for name, is_offered in offered.items() if is_offered}


def test_row_menus_offer_what_each_person_may_do(
    member: Client, admin: Client, auditor: Client, three: list[Connection], alice: User, bob: User
) -> None:
    row = three[0]
    people = {name: factories.make_person(name) for name in ("una", "max")}
    Share.objects.create(connection=row, person=people["una"], level="use", created_by=bob)
    Share.objects.create(connection=row, person=people["max"], level="manage", created_by=bob)
    assert menu(member, row) == {"check", "sign_in", "share", "disable"}
    assert menu(admin, row) == {"check", "share", "disable"}
    assert menu(factories.signed_in(people["max"]), row) == {"check", "sign_in", "share"}
    assert menu(factories.signed_in(people["una"]), row) == set()
    assert menu(auditor, row) == set()
    connections.disable(row, actor=alice, now=timezone.now())
    row.refresh_from_db()
    assert menu(member, row) == {"share"}
    assert menu(admin, row) == {"share", "enable"}


def test_the_menus_buttons_work_from_the_list(member: Client, three: list[Connection]) -> None:
    page = member.get("/connections/").content.decode()
    path = f"/connections/{three[0].pk}/disable/"
    assert f'formaction="{path}"' in page
    member.post(path, {"action": "", "csrfmiddlewaretoken": "x"})
    three[0].refresh_from_db()
    assert three[0].status == "disabled"


def test_the_list_costs_the_same_for_many_rows(bob: User) -> None:
    max_ = factories.make_person("max")
    client = factories.signed_in(max_)

    def queries(count: int) -> int:
        for number in range(count):
            row = factories.make_connection(name=f"{count} {number}")
            row.tags.create(name="a")
            Share.objects.create(connection=row, person=max_, level="manage", created_by=bob)
        with CaptureQueriesContext(database) as seen:
            client.get("/connections/")
        return len(seen)

    queries(1)
    assert queries(2) == queries(20)


def rows_of(answer: Any) -> list[list[str]]:
    assert answer["Content-Type"].startswith("text/csv")
    return list(csv.reader(io.StringIO(b"".join(answer.streaming_content).decode("utf-8-sig"))))


def test_the_download_has_what_the_filter_shows_in_its_order(
    member: Client, three: list[Connection], dave: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.make_connection(name="Another's", owner=dave)
    Connection.objects.filter(pk=three[0].pk).update(name="=HYPERLINK(1)")
    three[1].tags.create(name="finance")
    monkeypatch.setattr(connection_list, "CHUNK", 2)
    header, *rows = rows_of(member.post("/connections/export.csv?sort=-name"))
    assert header[:4] == ["ID", "Name", "Account", "Status"]
    assert [row[1] for row in rows] == ["Zebra", "Archive", "'=HYPERLINK(1)"]
    assert (rows[0][3], rows[0][-1]) == ("Active", "finance")
    assert len(rows_of(member.post("/connections/export.csv?tag=finance"))) == 2


def test_each_download_is_recorded_with_its_filter(member: Client, bob: User, three: list[Connection]) -> None:
    rows_of(member.post("/connections/export.csv?q=a&status=active&nonsense=1"))
    started, ended = AuditEvent.objects.filter(action__startswith="list.").order_by("pk")
    filters = {"q": "a", "status": "active", "sort": "name"}
    assert (started.action, started.changes) == ("list.export_started", filters)
    assert (ended.action, ended.actor, ended.target_name) == ("list.exported", bob, "Connections")
    assert ended.changes == {**filters, "rows": 3, "complete": True}
    assert member.get("/connections/export.csv").status_code == 405


def test_the_download_needs_a_fresh_sign_in(bob: User) -> None:
    client = Client()
    browser_sessions.sign_in(client, bob, is_fresh=False)
    assert client.post("/connections/export.csv")["Location"].startswith("/account/confirm/")
