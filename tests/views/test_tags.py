"""Tags on the list and the page of a connection, and in the API."""

from typing import Any

from django.test import Client

from connections.models import Connection, User
from tests import factories
from tests.asgi_client import PortalClient


def test_a_tag_leads_to_all_with_the_same(member: Client, bob: User) -> None:
    one, two = factories.make_connection(name="One"), factories.make_connection(name="Two")
    answer = member.post(f"/connections/{one.pk}/tags/", {"tags": "Month End, finance"}, follow=True)
    page = answer.content.decode()
    assert "Tags saved." in page
    assert 'href="/connections/?tag=month%20end"' in page
    response = member.get("/connections/", {"tag": " MONTH end "})
    assert [row["connection"] for row in response.context["rows"]] == [one]
    assert not member.get("/connections/", {"tag": "x,y"}).context["rows"]
    assert {row["connection"] for row in member.get("/connections/").context["rows"]} == {one, two}


def test_wrong_tags_are_explained(member: Client, bob: User) -> None:
    row = factories.make_connection()
    answer = member.post(f"/connections/{row.pk}/tags/", {"tags": "x" * 41}, follow=True)
    assert "A tag can have up to 40 characters." in answer.content.decode()
    assert not row.tags.exists()


def ask(user: User) -> Any:
    _, key = factories.make_key(user)
    return PortalClient(headers={"Authorization": f"Bearer {key}"})


def test_the_api_reads_replaces_and_filters_tags(bob: User) -> None:
    row, _ = factories.make_connection(), factories.make_connection(name="Other")
    robot = ask(bob)
    path = f"/api/v1/connections/{row.pk}"
    answer = robot.put(f"{path}/tags", {"tags": ["Finance", "a"]}, content_type="application/json")
    assert (answer.status_code, answer.json()["tags"]) == (200, ["a", "finance"])
    assert robot.get(path).json()["tags"] == ["a", "finance"]
    items = robot.get("/api/v1/connections?tag=FINANCE").json()["items"]
    assert [item["id"] for item in items] == [row.pk]
    assert robot.get("/api/v1/connections?tag=a,b").json()["items"] == []
    wrong = robot.put(f"{path}/tags", {"tags": ["a,b"]}, content_type="application/json")
    assert wrong.status_code == 422
    assert Connection.objects.get(pk=row.pk).tags.count() == 2
