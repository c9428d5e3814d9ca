"""MICROSOFT_SANDBOX_URL can point to any server that speaks the protocol, and nothing else has to change."""

import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from connections.microsoft import clouds
from connections.models import AppRegistration, Connection, ConnectionReference, Incident, Tenant, User
from connections.services.consent import admin_consent
from connections.services.tokens import scheduler
from tests import factories, second_idp
from tests.asgi_client import PortalClient
from tests.second_idp import AnotherMicrosoft
from tests.views.pages import SignIn


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
    other: AnotherMicrosoft, alice: User, bob: User, signed_in: SignIn
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
        f"/connect/several/?app={app.pk}",
        {"kind": "authorization_code", "name": "Mary", "chosen": ["mail.read"], "mailboxes": "desk@example.net"},
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


def test_app_only_works_at_another_server(other: AnotherMicrosoft, alice: User, signed_in: SignIn) -> None:
    tenant = factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY)
    app = factories.make_app_registration(tenant=tenant, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET)
    signed_in(alice).post(
        f"/connect/several/?app={app.pk}", {"kind": "client_credentials", "name": "Robot", "chosen": ["mail.read"]}
    )
    connection = Connection.objects.get()
    assert (connection.status, connection.granted) == ("active", frozenset({"Mail.Read", "User.Read.All"}))


def test_an_outside_administrators_consent_reports_back_from_another_server(
    other: AnotherMicrosoft, alice: User, client: Client
) -> None:
    tenant = factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY)
    app = factories.make_app_registration(
        tenant=tenant,
        client_id=second_idp.CLIENT_ID,
        secret=second_idp.SECRET,
        allows_delegated=False,
        default_capabilities=["mail.read"],
    )
    link, url = admin_consent.start(app, actor=alice)
    back = urlsplit(redirect_of(url))
    page = client.get(f"{back.path}?{back.query}").content.decode()
    assert "Consent is granted and verified." in page
    assert factories.reloaded(link).state == "verified"
    assert client.get(f"{back.path}?{back.query}").status_code == 400


def test_an_error_shown_by_another_server_is_explained_on_the_unfinished_connection(
    other: AnotherMicrosoft, bob: User, signed_in: SignIn, connection: Connection
) -> None:
    Connection.objects.filter(pk=connection.pk).update(status="pending")
    member = signed_in(bob)
    assert "What did Microsoft show?" in member.get(f"/connections/{connection.pk}/").content.decode()
    shown = "Sorry, something went wrong. Error code: 53003 Correlation Id: 11111111-2222-4333-8444-555555555555"
    page = member.post("/microsoft-errors/", {"shown": shown}, headers={"HX-Request": "true"}).content.decode()
    assert "A Conditional Access policy doesn&#x27;t allow this sign-in." in page
    assert "AADSTS53003" in page


def test_a_reference_leads_to_tokens_of_another_server(other: AnotherMicrosoft, bob: User, signed_in: SignIn) -> None:
    app = factories.make_app_registration(
        tenant=factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY),
        client_id=second_idp.CLIENT_ID,
        secret=second_idp.SECRET,
    )
    member = signed_in(bob)
    for name in ("Old", "New"):
        form = {"kind": "authorization_code", "name": name, "chosen": ["mail.read"]}
        begun = member.post(f"/connect/several/?app={app.pk}", form)
        back = urlsplit(redirect_of(begun["Location"]))
        member.get(f"{back.path}?{back.query}")
    old, new = Connection.objects.defer(None).order_by("pk")
    member.post("/references/add/", {"name": "mary", "connection": "Old"})
    _, key = factories.make_key(bob)
    robot = PortalClient(headers={"Authorization": f"Bearer {key}"})
    assert robot.get("/api/v1/connections/mary/token").json()["access_token"] == old.access_token
    reference = ConnectionReference.objects.get()
    member.post(f"/references/{reference.pk}/point/", {"connection": "New", "seen": old.pk})
    assert robot.get("/api/v1/connections/mary/token").json()["access_token"] == new.access_token


def test_one_app_serves_three_tenants_at_another_server(
    other: AnotherMicrosoft, alice: User, signed_in: SignIn
) -> None:
    admin = signed_in(alice)
    home = factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY)
    app = factories.make_app_registration(
        tenant=home, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET, audience="multi"
    )
    for number, directory in enumerate(second_idp.OTHER_DIRECTORIES):
        admin.post(f"/apps/{app.pk}/tenants/", {"directory_id": directory, "name": f"Other {number}"})
    for tenant in Tenant.objects.order_by("pk"):
        data = {"kind": "client_credentials", "name": f"In {tenant}", "chosen": ["mail.read"], "tenant": tenant.pk}
        admin.post(f"/connect/several/?app={app.pk}", data)
    assert list(Connection.objects.order_by("pk").values_list("status", flat=True)) == ["active"] * 3
    other.requests.clear()
    now = timezone.now() + timedelta(hours=2)
    assert scheduler.sweep(now=now).renewed == 3
    assert {path.split("/")[1] for _, path in other.requests} == {second_idp.DIRECTORY, *second_idp.OTHER_DIRECTORIES}


def test_common_and_a_shared_mailbox_work_at_another_server(
    other: AnotherMicrosoft, alice: User, bob: User, signed_in: SignIn
) -> None:
    common = factories.make_tenant(name="Anybody", directory_id="common", tid="")
    app = factories.make_app_registration(
        tenant=common, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET, audience="multi", allows_app_only=False
    )
    member = signed_in(bob)
    begun = member.post(
        f"/connect/several/?app={app.pk}",
        {"kind": "authorization_code", "name": "Mary", "chosen": ["mail.read"], "mailboxes": "desk@example.net"},
    )
    back = urlsplit(redirect_of(begun["Location"]))
    member.get(f"{back.path}?{back.query}")
    connection = Connection.objects.get()
    assert (connection.status, connection.pending_mailboxes) == ("active", ["desk@example.net"])
    signed_in(alice).post(f"/incidents/{Incident.objects.get().pk}/tenant/")
    connection.refresh_from_db()
    assert (connection.tenant.name, connection.tenant.tid) == ("example.net", second_idp.DIRECTORY)
    assert connection.mailbox_accesses.get().mailbox.address == "desk@example.net"
