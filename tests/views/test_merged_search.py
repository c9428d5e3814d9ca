"""Searching connections in several tables at once: every match once, in order, on whichever page."""

from typing import Any

import pytest
from django.test import Client

from connections.models import User
from connections.views import list_pages
from tests import factories
from tests.views.pages import text


def pages(client: Client, query: str) -> list[list[str]]:
    """Return the names on each page, following the links forwards."""
    names, url = [], f"/connections/{query}"
    while url:
        page = client.get(url).context["page"]
        names.append([connection.name for connection in page.items])
        url = f"/connections/{page.next_url}" if page.next_url else ""
    return names


@pytest.fixture
def searched(bob: User, dave: User) -> list[str]:
    """60 of bob's, of which every third is called after dave, and 20 of dave's."""
    app = factories.make_app_registration()
    made = {"app_registration": app}
    for number in range(60):
        factories.make_connection(owner=bob, name=f"{'Dave' if number % 3 == 0 else 'Bob'} {number:02}", **made)
    for number in range(20):
        factories.make_connection(owner=dave, name=f"Tickets {number:02}", **made)
    factories.make_connection(owner=dave, name="Dave 99", **made)  # matches twice
    return sorted([f"Dave {number:02}" for number in range(0, 60, 3)]) + ["Dave 99"] + [
        f"Tickets {number:02}" for number in range(20)
    ]  # fmt: skip


@pytest.mark.parametrize("few", [0, 100])
def test_every_match_is_listed_once_in_order(
    admin: Client, searched: list[str], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(list_pages, "FEW", few)
    assert pages(admin, "?q=dave") == [searched]
    answer = admin.get("/connections/?q=dave")
    assert "41 entries" in text(answer)


def test_pages_of_a_search_follow_each_other(admin: Client, searched: list[str]) -> None:
    first, second = pages(admin, "?q=b")  # names that begin with b, and everything that bob owns
    assert len(first) == 50
    assert first + second == sorted({*first, *second})
    assert len(second) == 10
    assert set(first + second) >= {f"Bob {number:02}" for number in range(60) if number % 3}


def test_a_search_for_nothing_known_is_empty(admin: Client, member: Client, searched: list[str]) -> None:
    assert pages(admin, "?q=no-such-thing") == pages(member, "?q=no-such-thing") == [[]]


def test_a_member_finds_only_what_they_may_see(member: Client, searched: list[str]) -> None:
    assert pages(member, "?q=dave") == [[name for name in searched if name.startswith("Dave") and name != "Dave 99"]]


def test_the_number_of_queries_is_the_same_for_any_search(admin: Client, searched: list[str], max_queries: Any) -> None:
    admin.get("/connections/?q=dave")
    for query in ("?q=dave", "?q=no-such-thing", "?q=b"):
        with max_queries(15):
            admin.get(f"/connections/{query}")
