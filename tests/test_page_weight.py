"""What a page costs on the network and a web process at its start: compressed HTML, and nothing left for the first visitor."""

import asyncio
import gzip
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.template import TemplateDoesNotExist, loader
from django.test import Client
from django.urls import reverse

from connections.models import User
from portal import asgi, warm_up
from tests import factories, full_dataset
from tests.api.api_client import Program

GZIP = {"HTTP_ACCEPT_ENCODING": "gzip, br"}


@pytest.mark.django_db
def test_home_is_small_on_the_network(contoso: full_dataset.World, signed_in: Callable[[User], Client]) -> None:
    for person in ("alice", "bob"):
        client = signed_in(contoso.people[person])
        answer = client.get("/", **GZIP)  # type: ignore[arg-type]
        plain = client.get("/").content
        assert answer["Content-Encoding"] == "gzip"
        assert "Accept-Encoding" in answer["Vary"]
        assert len(answer.content) < 10_000 < len(plain)
        assert gzip.decompress(answer.content).startswith(b"<!doctype html>")


@pytest.mark.django_db
def test_the_length_of_a_compressed_page_varies(alice: User, signed_in: Callable[[User], Client]) -> None:
    client = signed_in(alice)
    assert len({len(client.get("/tenants/", **GZIP).content) for _ in range(12)}) > 1  # type: ignore[arg-type]


@pytest.mark.django_db
def test_nothing_with_a_secret_is_compressed(bob: User, signed_in: Callable[[User], Client]) -> None:
    client, connection = signed_in(bob), factories.make_connection(owner=bob)
    program = Program(bob)
    answers = [
        client.get(reverse("second_factor_add_app"), **GZIP),  # type: ignore[arg-type]
        client.post(reverse("api_key_add"), {"name": "Robot"}, **GZIP),  # type: ignore[arg-type]
        program.client.get(f"/api/v1/connections/{connection.pk}/token", headers={"Accept-Encoding": "gzip"}),
        program.client.get("/api/v1/connections", headers={"Accept-Encoding": "gzip"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 200, 200]
    assert [answer.get("Content-Encoding") for answer in answers] == [None] * 4


def test_a_web_process_prepares_its_pages_before_it_accepts_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(asgi, "warm_up", lambda: order.append("warm"))
    monkeypatch.setattr(asgi, "KeyAnnouncer", FakeAnnouncer)

    async def receive() -> dict[str, str]:
        return {"type": "lifespan"}

    async def send(message: Any) -> None:
        order.append(message["type"])

    asyncio.run(asgi.Portal(threads=1)({"type": "lifespan"}, receive, send))
    assert order == ["warm", "lifespan.startup.complete", "lifespan.shutdown.complete"]


class FakeAnnouncer:
    def __init__(self, kind: str) -> None:
        self.has_announced = self

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def wait(self, seconds: float) -> None: ...


def test_it_prepares_home_and_the_error_pages_without_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    original = loader.get_template

    def note(name: str) -> Any:
        compiled.append(name)
        return original(name)

    monkeypatch.setattr(loader, "get_template", note)
    warm_up.warm_up()
    assert {"503.html", "base.html", "connections/list.html"} <= set(compiled)
    assert any(name.startswith("home/") for name in compiled)


def test_a_template_that_cannot_be_compiled_does_not_stop_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> Any:
        raise TemplateDoesNotExist(name)

    monkeypatch.setattr(loader, "get_template", broken)
    with caplog.at_level(logging.ERROR):
        warm_up.warm_up()
    assert "could not be compiled" in caplog.text
