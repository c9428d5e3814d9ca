"""Strangers ask for the OpenAPI document and the API's reference again and again."""

import time
from typing import Any

import pytest
from django.test import Client

from connections.api import documents
from connections.api.openapi import PortalAPI
from connections.models import User
from tests.api.api_client import at_once
from tests.asgi_client import PortalClient

ROUTES = ("/api/v1/openapi.json", "/api/v1/docs")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that the document is built."""
    built: list[int] = []
    build = PortalAPI.get_openapi_schema

    def counted(self: PortalAPI, **arguments: Any) -> Any:
        built.append(1)
        time.sleep(0.1)  # long enough for the others to come
        return build(self, **arguments)

    monkeypatch.setattr(PortalAPI, "get_openapi_schema", counted)
    monkeypatch.setattr(documents, "_kept", {})
    return built


@pytest.mark.django_db
def test_the_document_is_built_once_however_often_it_is_asked_for(builds: list[int]) -> None:
    answers = at_once(*[lambda route=route: Client().get(route) for route in ROUTES * 5])
    assert [answer.status_code for answer in answers] == [200] * 10
    assert len(builds) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("route", ROUTES)
def test_who_has_it_already_gets_304(route: str) -> None:
    first = Client().get(route)
    etag = first["ETag"]
    assert not etag.startswith("W/")
    assert first["Cache-Control"] == "no-cache"
    again = Client().get(route, headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    changed = Client().get(route, headers={"If-None-Match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)
    head = Client().head(route)
    assert (head.status_code, head.content, head["ETag"]) == (200, b"", etag)
    assert head["Content-Length"] == str(len(first.content))


@pytest.mark.django_db
def test_the_reference_of_a_person_who_is_signed_in_is_not_shared(bob: User) -> None:
    browser = Client()
    browser.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    page = browser.get("/api/v1/docs")
    assert "ETag" not in page
    assert "no-store" in page["Cache-Control"]
    assert "Cookie" in Client().get("/api/v1/docs")["Vary"]


@pytest.mark.django_db
@pytest.mark.parametrize("route", ROUTES)
def test_what_is_sent_in_front_of_django_is_what_django_sends(route: str) -> None:
    through_django, in_front = Client().get(route), PortalClient().get(route)
    assert documents.built(route) is not None
    assert in_front.content == through_django.content
    sent, expected = ({name.lower(): value for name, value in answer.items()} for answer in (in_front, through_django))
    assert sent.keys() == expected.keys()
    assert {name for name in sent if sent[name] != expected[name]} == {"x-request-id"}
    known = PortalClient().get(route, headers={"If-None-Match": f'"x", {in_front["ETag"]}'})
    assert (known.status_code, known.content) == (304, b"")
    assert PortalClient().get(route, headers={"Host": "elsewhere.example"}).status_code == 400
