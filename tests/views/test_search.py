"""One search over everything, which shows nobody more than the lists and pages do."""

from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import ConnectionReference, Team, User
from connections.services.api_keys import rate_limit
from connections.views import search
from tests import factories, full_dataset


def found(client: Client, text: str) -> dict[str, list[str]]:
    answer = client.get("/search/", {"q": text})
    assert answer.status_code == 200
    return {group.label: [result.name for result in group.results] for group in answer.context["groups"]}


@pytest.fixture
def world(alice: User, bob: User, carol: User, dave: User) -> full_dataset.World:
    people = {"alice": alice, "bob": bob, "carol": carol, "dave": dave}
    world = full_dataset.make(people)
    world.connection.tags.create(name="finance")
    return world


@pytest.mark.parametrize(
    ("text", "label", "name"),
    [
        ("voic", "Connections", "Invoices"),
        ("INVOICES", "Connections", "Invoices"),
        ("finance", "Connections", "Invoices"),
        ("lovelace", "Microsoft accounts", factories.ADA),
        ("support@", "Shared mailboxes", "support@contoso.example"),
        ("conn cont", "App registrations", "Contoso Connections"),
        (factories.CLIENT_ID[:12], "App registrations", "Contoso Connections"),
        ("contoso", "Tenants", "Contoso"),
        ("bob mem", "People", "Bob Member"),
        ("robots", "Service accounts", "Invoice robots"),
        ("nobody", "Teams", "Nobody yet"),
        ("invoices-inbox", "References", "invoices-inbox"),
        ("support", "Incidents", ""),
    ],
)
def test_everything_is_found(admin: Client, world: full_dataset.World, text: str, label: str, name: str) -> None:
    results = found(admin, text)
    assert name in results[label] or (not name and results[label])


def test_the_id_of_a_connection_finds_it(admin: Client, world: full_dataset.World) -> None:
    other = factories.make_connection(name="Zebra", pk=4711)
    assert found(admin, "4711")["Connections"] == [other.name]
    assert "Connections" not in found(admin, "99999999999999999999")


def test_members_find_only_what_they_may_see(stranger: Client, world: full_dataset.World) -> None:
    Team.objects.create(name="Invoices team")
    assert found(stranger, "invoices") == {"Teams": ["Invoices team"]}
    assert "Microsoft accounts" not in found(stranger, "lovelace")
    assert "People" not in found(stranger, "bob")
    assert found(stranger, "finance") == {"Teams": ["Finance"]}
    assert found(stranger, str(world.connection.pk).zfill(2)) == {}


def test_a_reference_does_not_name_a_connection_that_the_reader_cannot_see(
    stranger: Client, dave: User, world: full_dataset.World
) -> None:
    hidden = factories.make_connection(name="Merger with Fabrikam", owner=factories.make_person("eve"))
    ConnectionReference.objects.create(name="nightly-job", owner=dave, connection=hidden, pointed_at=timezone.now())
    answer = stranger.get("/search/", {"q": "nightly"})
    assert [group.label for group in answer.context["groups"]] == ["References"]
    assert "Fabrikam" not in answer.content.decode()


def test_each_kind_has_eight_results_and_leads_to_the_rest(admin: Client, bob: User) -> None:
    for number in range(search.MOST + 2):
        factories.make_connection(name=f"Report {number}")
    answer = admin.get("/search/", {"q": "report"})
    (group,) = answer.context["groups"]
    assert len(group.results) == search.MOST
    assert group.more_url == "/connections/?q=report"
    assert "All matches in Connections" in answer.content.decode()


@pytest.mark.parametrize("text", ["", "  ", "a", "\x00", "%", "_"])
def test_too_little_finds_nothing(admin: Client, world: full_dataset.World, text: str) -> None:
    assert found(admin, text) == {}


@pytest.mark.parametrize("text", ["%%", "__", "' OR 1=1 --", "\\\\", "x" * 5000, "<script>alert(1)</script>"])
def test_odd_texts_are_only_texts(admin: Client, world: full_dataset.World, text: str) -> None:
    assert found(admin, text) == {}
    assert "<script>alert" not in admin.get("/search/", {"q": text}).content.decode()


def test_many_words_cost_no_more_than_a_few(admin: Client, world: full_dataset.World) -> None:
    assert found(admin, "invoices " * 3 + "invoices") == found(admin, "invoices")


def test_it_costs_as_many_queries_as_there_are_kinds(admin: Client, world: full_dataset.World) -> None:
    def queries(text: str) -> int:
        with CaptureQueriesContext(database) as seen:
            admin.get("/search/", {"q": text})
        return len(seen)

    queries("xyz")
    before = queries("inv")
    for number in range(20):
        factories.make_connection(name=f"Invoices {number}")
        factories.make_person(f"inv{number}")
    assert queries("inv") == before
    assert before - queries("") == len(search.SOURCES) + 2  # accounts and tags


def test_too_many_searches_are_refused(admin: Client, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    class Exceeded:
        is_exceeded, reset = True, 30

    monkeypatch.setattr(rate_limit, "count", lambda *args, **kwargs: Exceeded)
    answer = admin.get("/search/", {"q": "inv"})
    assert (answer.status_code, answer["Retry-After"]) == (429, "30")
    assert "Too many searches" in answer.content.decode()
