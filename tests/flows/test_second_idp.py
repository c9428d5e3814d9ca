"""MICROSOFT_SANDBOX_URL can point to any server that speaks the protocol, and nothing else has to change."""

import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from connections.microsoft import clouds
from connections.models import AppRegistration, Connection, Tenant, User
from connections.services.tokens import scheduler
from tests import factories, second_idp
from tests.second_idp import AnotherMicrosoft

pytestmark = pytest.mark.django_db


@pytest.fixture
def other(settings: Any) -> Iterator[AnotherMicrosoft]:
    server = AnotherMicrosoft()
    settings.MICROSOFT_SANDBOX_URL = server.url
    clouds.add_sandbox(server.url)
    yield server
    clouds.add_sandbox("")
    server.stop()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def redirect_of(url: str) -> str:
    try:
        urllib.request.build_opener(_Stay).open(url, timeout=10)
    except urllib.error.HTTPError as answer:
        with answer:
            return str(answer.headers["Location"])
    raise AssertionError("no redirect")


def test_register_connect_refresh_and_flag_work_at_another_server(
    other: AnotherMicrosoft, alice: User, bob: User, signed_in: Callable[[User], Client]
) -> None:
    admin, member = signed_in(alice), signed_in(bob)
    admin.post("/tenants/add/", {"name": "Elsewhere", "environment": "sandbox", "directory_id": second_idp.DIRECTORY})
    tenant = Tenant.objects.get()
    assert tenant.tid == second_idp.DIRECTORY
    admin.post(
        "/apps/add/",
        {
            "tenant": tenant.pk,
            "name": "Elsewhere app",
            "client_id": second_idp.CLIENT_ID,
            "audience": "single",
            "allows_delegated": "on",
            "allows_app_only": "on",
            "kind": "secret",
            "secret": second_idp.SECRET,
            "expires_at": (timezone.now() + timedelta(days=300)).date().isoformat(),
        },
    )
    app = AppRegistration.objects.get()
    assert app.is_ready

    begun = member.post(
        f"/connections/add/{app.pk}/",
        {"kind": "authorization_code", "name": "Mary", "chosen": ["mail.read"], "new_mailboxes": "desk@example.net"},
    )
    back = urlsplit(redirect_of(begun["Location"]))
    member.get(f"{back.path}?{back.query}")
    connection = Connection.objects.get()
    assert (connection.status, connection.account_username) == ("active", "mary@example.net")
    assert "Mail.Read" in connection.granted
    assert connection.mailbox_accesses.get().state == "reachable" or connection.mailbox_accesses.get().cause

    assert connection.refresh_after is not None
    later = connection.refresh_after + timedelta(seconds=1)
    assert scheduler.sweep(now=later).renewed == 1
    other.refresh_tokens.clear()
    scheduler.check_now(connection, actor=bob, now=timezone.now())
    connection.refresh_from_db()
    assert (connection.status, connection.status_code) == ("reconnect_needed", "AADSTS50173")


def test_app_only_works_at_another_server(
    other: AnotherMicrosoft, alice: User, signed_in: Callable[[User], Client]
) -> None:
    tenant = factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY)
    app = factories.make_app_registration(tenant=tenant, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET)
    signed_in(alice).post(
        f"/connections/add/{app.pk}/", {"kind": "client_credentials", "name": "Robot", "chosen": ["mail.read"]}
    )
    connection = Connection.objects.get()
    assert (connection.status, connection.granted) == ("active", frozenset({"Mail.Read", "User.Read.All"}))
