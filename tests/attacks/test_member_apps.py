"""A member brings an app registration of their own, to get other people's mailboxes or more than the policy allows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.errors import InvalidInput, NotAllowed, PolicyForbids
from connections.forms.connect import UsableCredentialForm
from connections.models import AppRegistration, Connection, Share, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import connections, new_app, sign_in, sign_in_links
from connections.services.connections.new_app import ConnectionOptions, NewApp
from connections.services.governance import policy
from connections.services.people import ownership_transfer
from connections.services.policy.next_steps import Step, possible_steps
from connections.services.policy.rules import Rules
from connections.services.registry import app_registrations
from connections.services.registry.credentials import NewFederated, NewSecret
from portal.sandbox import seed
from tests import factories
from tests.api.api_client import Program, problem

NOW = timezone.now()
OWN = NewApp("sandbox", seed.CONTOSO, seed.CONNECTIONS_APP, "single", NewSecret(seed.CONNECTIONS_SECRET))
WISHES = ConnectionOptions(AuthenticationType.AUTHORIZATION_CODE, "Invoices", ["mail.read"])


@pytest.fixture
def trap(eve: User) -> Connection:
    """Eve's connection through her own app registration, for which nobody has signed in yet."""
    app = factories.make_app_registration(is_personal=True, created_by=eve)
    return connections.start_delegated(app, name="Invoices", chosen=["mail.read"], actor=eve)


def test_a_sign_in_link_leads_nobody_to_a_members_app(trap: Connection, eve: User, alice: User) -> None:
    assert Step.SEND_SIGN_IN_LINK not in possible_steps(eve, trap, now=NOW)
    with pytest.raises(NotAllowed, match="Only the person who added"):
        sign_in_links.create(trap, actor=eve, now=NOW)
    app = trap.app_registration
    values: dict[str, Any] = {"audience": app.audience, "allows_delegated": True, "allows_app_only": True}
    app_registrations.change(app, name=app.name, default_capabilities=[], actor=alice, is_personal=False, **values)
    opened = factories.reloaded(trap)
    assert Step.SEND_SIGN_IN_LINK in possible_steps(eve, opened, now=NOW)
    sign_in_links.create(opened, actor=eve, now=NOW)


def test_a_link_from_before_is_not_used(trap: Connection, eve: User) -> None:
    AppRegistration.objects.update(is_personal=False)
    _, token = sign_in_links.create(factories.reloaded(trap), actor=eve, now=NOW)
    AppRegistration.objects.update(is_personal=True)
    with pytest.raises(sign_in_links.LinkUnusable):
        sign_in_links.open_link(token, now=NOW)


def test_a_manager_is_not_led_to_a_members_app(
    trap: Connection, dave: User, eve: User, signed_in: Callable[[User], Client]
) -> None:
    Share.objects.create(connection=trap, person=dave, level=Share.Level.MANAGE, created_by=eve)
    assert Step.SIGN_IN not in possible_steps(dave, trap, now=NOW)
    assert Step.SIGN_IN in possible_steps(eve, trap, now=NOW)
    assert signed_in(dave).post(f"/connections/{trap.pk}/sign-in/").status_code == 403
    with pytest.raises(NotAllowed, match="Only the person who added"):
        sign_in.begin(trap, actor=dave, now=NOW)


def test_a_members_app_is_not_passed_on_with_a_connection(trap: Connection, dave: User, eve: User) -> None:
    assert Step.TRANSFER not in possible_steps(eve, trap, now=NOW)
    with pytest.raises(InvalidInput, match="Only the person who added"):
        ownership_transfer.transfer(trap, dave, keep_grant=False, actor=eve, now=NOW)
    assert factories.reloaded(trap).owner == eve


def test_a_member_brings_no_app_that_trusts_the_portals_server(
    alice: User, eve: User, settings: Any, tmp_path: Path, sandbox: Any
) -> None:
    """The token in the file proves who the server is, not that Eve may use an application that trusts it."""
    (tmp_path / "token").write_text("a.b.c")
    settings.FEDERATED_TOKEN_PATH = str(tmp_path / "token")
    policy.change(None, Rules(member_apps=True), actor=alice, now=NOW)
    assert not UsableCredentialForm({"credential-kind": "token_file"}).is_valid()
    for source in ("file", "portal"):
        for wishes, actor in (
            (WISHES, eve),
            (replace(WISHES, authentication_type=AuthenticationType.CLIENT_CREDENTIALS), alice),
        ):
            with pytest.raises(InvalidInput):
                new_app.connect(replace(OWN, credential=NewFederated(source)), wishes, actor=actor, now=NOW)
    assert not AppRegistration.objects.exists()


def test_a_member_registers_no_directory_to_get_round_the_policy(alice: User, eve: User, sandbox: Any) -> None:
    policy.change(None, Rules(member_apps=True, other_tenants=False), actor=alice, now=NOW)
    with pytest.raises(PolicyForbids):
        new_app.connect(OWN, WISHES, actor=eve, now=NOW)
    assert not Tenant.objects.exists()
    factories.make_tenant()
    new_app.connect(OWN, WISHES, actor=eve, now=NOW)


def test_the_form_offers_no_link_for_a_members_app(
    trap: Connection, eve: User, signed_in: Callable[[User], Client]
) -> None:
    browser, url = signed_in(eve), f"/connect/outlook/?app={trap.app_registration_id}"
    assert b"Someone else signs in" not in browser.get(url).content
    data = {"kind": "authorization_code", "name": "Other", "chosen": ["mail.read"], "by_link": "1"}
    assert b"Nobody else can sign in" in browser.post(url, data).content
    assert Connection.objects.get() == trap


def test_the_api_makes_no_link_for_a_members_app(trap: Connection, eve: User) -> None:
    body = {
        "name": "Other",
        "app_registration": trap.app_registration_id,
        "authentication_type": "authorization_code",
        "capabilities": ["mail.read"],
    }
    response = Program(eve).post("connections", body)
    assert (response.status_code, response.json()["sign_in_link"]) == (201, None)
    refused = Program(eve).post(f"connections/{response.json()['id']}/sign-in-link")
    assert problem(refused)[0] == 403
