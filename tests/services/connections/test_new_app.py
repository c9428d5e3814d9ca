"""Connecting through an app registration that is new to the portal: everything is stored, or nothing."""

from dataclasses import replace
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.errors import AlreadyExists, InvalidInput, MicrosoftRefused, NotAllowed, PolicyForbids
from connections.microsoft import http
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, SharedMailbox, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import connections, new_app
from connections.services.connections.new_app import ConnectionOptions, NewApp
from connections.services.governance import policy
from connections.services.policy.rules import Rules
from connections.services.registry.credentials import NewFederated, NewSecret
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sandbox")]

NOW = timezone.now()
NEW = NewApp("sandbox", seed.CONTOSO, seed.CONNECTIONS_APP, "single", NewSecret(seed.CONNECTIONS_SECRET))
ROBOTS = replace(NEW, client_id=seed.ROBOTS_APP, credential=NewSecret(seed.ROBOTS_SECRET))
DELEGATED = ConnectionOptions(AuthenticationType.AUTHORIZATION_CODE, "Invoices", ["mail.read"])
APP_ONLY = ConnectionOptions(AuthenticationType.CLIENT_CREDENTIALS, "Nightly robot", ["mail.read"])


def rows() -> list[int]:
    models: list[Any] = [Tenant, AppRegistration, AppCredential, Connection, SharedMailbox, AuditEvent]
    return [model.objects.count() for model in models]


def test_one_call_stores_tenant_app_registration_mailbox_and_connection(alice: User) -> None:
    options = replace(DELEGATED, addresses=["support@contoso.example"])
    connection = new_app.connect(NEW, options, actor=alice, now=NOW)
    app = connection.app_registration
    assert (app.tenant.tid, app.tenant.name) == (seed.CONTOSO, seed.CONTOSO)
    assert app.name == f"{seed.CONTOSO} {seed.CONNECTIONS_APP[:8]}"
    assert (app.is_ready, app.is_personal, app.allows_delegated, app.allows_app_only) == (True, False, True, False)
    assert (connection.status, connection.owner) == ("pending", alice)
    assert connection.mailbox_accesses.get().mailbox.address == "support@contoso.example"
    assert app.credentials.get().expires_at is None
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert actions == [
        "tenant.added", "app_registration.added", "credential.added", "mailbox.registered", "connection.created",
        "connection.mailbox_attached",
    ]  # fmt: skip


def test_an_it_admin_needs_no_secret(alice: User) -> None:
    connection = new_app.connect(replace(NEW, credential=NewFederated()), DELEGATED, actor=alice, now=NOW)
    app = connection.app_registration
    assert (app.is_ready, connection.status) == (False, "pending")
    assert app.credentials.get().kind == AppCredential.Kind.FEDERATED
    with pytest.raises(InvalidInput, match="Enter a client secret"):
        new_app.connect(replace(ROBOTS, credential=NewFederated()), APP_ONLY, actor=alice, now=NOW)


def test_an_app_only_connection_works_at_once(alice: User) -> None:
    connection = new_app.connect(ROBOTS, APP_ONLY, actor=alice, now=NOW)
    assert (connection.status, connection.is_delegated) == ("active", False)
    assert "Mail.Read" in connection.granted
    app = connection.app_registration
    assert (app.allows_delegated, app.allows_app_only, app.is_ready) == (False, True, True)


def test_a_registered_tenant_is_used_by_any_of_its_names(alice: User) -> None:
    tenant = factories.make_tenant()
    connection = new_app.connect(NEW, DELEGATED, actor=alice, now=NOW)
    assert connection.app_registration.tenant == tenant
    robot = new_app.connect(replace(ROBOTS, directory_id="contoso.example"), APP_ONLY, actor=alice, now=NOW)
    assert robot.app_registration.tenant == tenant


@pytest.mark.parametrize(
    ("new", "options", "error", "field"),
    [
        (replace(NEW, credential=NewSecret("not~the~secret")), DELEGATED, MicrosoftRefused, "credential"),
        (replace(ROBOTS, credential=NewSecret("not~the~secret")), APP_ONLY, MicrosoftRefused, "credential"),
        (replace(NEW, client_id="0" * 8 + "-1111-4111-8111-" + "0" * 12), DELEGATED, MicrosoftRefused, "client_id"),
        (replace(NEW, directory_id="nobody.example"), DELEGATED, InvalidInput, "directory_id"),
        (replace(NEW, directory_id="common"), DELEGATED, InvalidInput, "audience"),
        (replace(ROBOTS, directory_id="common", audience="multi"), APP_ONLY, InvalidInput, "allows_app_only"),
        (replace(NEW, environment="moon"), DELEGATED, InvalidInput, "environment"),
        (NEW, replace(DELEGATED, name="Taken"), AlreadyExists, "name"),
        (replace(NEW, tenant_name="Fabrikam"), DELEGATED, AlreadyExists, "tenant_name"),
        (replace(NEW, name="Fabrikam app"), DELEGATED, AlreadyExists, "app_name"),
        (NEW, replace(DELEGATED, chosen=["fax.send"]), InvalidInput, "capabilities"),
    ],
)  # fmt: skip
def test_whatever_fails_leaves_nothing_behind(
    new: NewApp, options: ConnectionOptions, error: type[Exception], field: str, alice: User
) -> None:
    tenant = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    app = factories.make_app_registration(
        tenant=tenant, name="Fabrikam app", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET
    )
    factories.make_connection(name="Taken", owner=alice, app_registration=app)
    before = rows()
    with pytest.raises(error) as caught:
        new_app.connect(new, options, actor=alice, now=NOW)
    assert getattr(caught.value, "field", "") == field, caught.value
    assert rows() == before


def test_an_app_registration_that_is_known_is_not_added_twice(alice: User) -> None:
    factories.make_app_registration()
    before = rows()
    with pytest.raises(AlreadyExists, match="already registered as"):
        new_app.connect(NEW, DELEGATED, actor=alice, now=NOW)
    assert rows() == before


def test_the_policy_applies_before_anything_is_stored(alice: User) -> None:
    policy.change(None, Rules(authentication_types=("client_credentials",)), actor=alice, now=NOW)
    before = rows()
    with pytest.raises(PolicyForbids):
        new_app.connect(NEW, DELEGATED, actor=alice, now=NOW)
    assert rows() == before


def test_a_second_it_admin_must_approve_an_app_only_connection(alice: User) -> None:
    policy.change(None, Rules(app_only_second_admin=True), actor=alice, now=NOW)
    connection = new_app.connect(ROBOTS, APP_ONLY, actor=alice, now=NOW)
    assert (connection.status, connection.granted) == ("pending", frozenset())
    assert Connection.objects.get(pk=connection.pk).access_token is None


def test_members_bring_apps_only_if_the_policy_says_so(alice: User, bob: User, carol: User) -> None:
    with pytest.raises(NotAllowed, match="Only IT admins can add app registrations"):
        new_app.connect(NEW, DELEGATED, actor=bob, now=NOW)
    policy.change(None, Rules(member_apps=True), actor=alice, now=NOW)
    for options, actor in ((APP_ONLY, bob), (DELEGATED, carol)):
        with pytest.raises(NotAllowed):
            new_app.connect(NEW, options, actor=actor, now=NOW)
    assert not AppRegistration.objects.exists()
    connection = new_app.connect(NEW, DELEGATED, actor=bob, now=NOW)
    assert connection.app_registration.is_personal


def test_nobody_else_connects_through_a_members_app(alice: User, bob: User, dave: User) -> None:
    app = factories.make_app_registration(is_personal=True, created_by=bob)
    values: dict[str, Any] = {"name": "Phished", "chosen": ["mail.read"], "now": NOW}
    for person in (dave, alice):
        with pytest.raises(NotAllowed, match="Only the person who added"):
            connections.start_delegated(app, actor=person, **values)
    connections.start_delegated(app, actor=bob, **values)


def test_microsoft_is_asked_outside_the_transaction(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    depth, inside = len(database.savepoint_ids), list[int]()
    send = http.Client.send

    def spy(self: Any, request: Any) -> Any:
        inside.append(len(database.savepoint_ids))
        return send(self, request)

    monkeypatch.setattr(http.Client, "send", spy)
    new_app.connect(ROBOTS, APP_ONLY, actor=alice, now=NOW)
    assert inside
    assert set(inside) == {depth}


def test_a_tenant_registered_meanwhile_leaves_nothing_behind(
    alice: User, monkeypatch: pytest.MonkeyPatch, sandbox: Control
) -> None:
    """Two people submit the same form: the second one is told, and stores nothing."""
    look_up = new_app._look_up_tenant

    def slow(new: NewApp) -> Tenant:
        tenant = look_up(new)
        factories.make_tenant(name="First", directory_id=seed.CONTOSO)
        return tenant

    monkeypatch.setattr(new_app, "_look_up_tenant", slow)
    with pytest.raises(AlreadyExists):
        new_app.connect(NEW, DELEGATED, actor=alice, now=NOW)
    assert Tenant.objects.get().name == "First"
    assert not AppRegistration.objects.exists()
