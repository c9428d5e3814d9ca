"""Pages of connection references."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import Connection, ConnectionReference, User
from connections.services.sharing import references
from tests import factories
from tests.views.pages import assert_answer, assert_shows, text


def test_the_list_takes_as_many_queries_for_many_as_for_one(
    bob: User, member: Client, django_assert_max_num_queries: Any, connection: Connection
) -> None:
    for number in range(30):
        references.create(f"name-{number}", connection, actor=bob, now=timezone.now())
    with django_assert_max_num_queries(14):
        page = text(member.get("/references/"))
    assert_shows(page, "name-0", "name-29", connection.name)


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ("9999", "There is no connection with this ID or name."),
        ("9" * 40, "There is no connection with this ID or name."),
        ("Nothing", "There is no connection with this ID or name."),
        ("", "This field is required."),
    ],
)
def test_a_connection_that_is_not_visible_is_not_accepted(
    bob: User, dave: User, member: Client, connection: str, words: str
) -> None:
    factories.make_connection(owner=dave, name="Hidden")
    answer = member.post("/references/add/", {"name": "invoices", "connection": connection})
    assert_answer(answer, 422, words)
    assert not ConnectionReference.objects.exists()


def test_two_connections_with_the_same_name_need_the_id(alice: User, bob: User, admin: Client) -> None:
    ids = [factories.make_connection(owner=owner, name="Mail").pk for owner in (alice, bob)]
    answer = admin.post("/references/add/", {"name": "invoices", "connection": "Mail"})
    assert_answer(answer, 422, "Several connections have this name.")
    assert admin.post("/references/add/", {"name": "invoices", "connection": str(ids[0])}).status_code == 302


def test_the_page_that_removes_a_connection_names_its_references(
    bob: User, member: Client, connection: Connection
) -> None:
    references.create("invoices", connection, actor=bob, now=timezone.now())
    page = text(member.get(f"/connections/{connection.pk}/remove/"))
    assert_shows(page, "These references will have no connection", "invoices")
