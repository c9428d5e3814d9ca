"""An IT admin whose account was disabled in Entra goes on with her browser, her API key and a token call."""

import json
from datetime import timedelta
from typing import Any

import pyotp
import pytest
from django.test import Client
from django.utils import timezone

from connections.access import permissions, querysets
from connections.models import ApiKey, AuditEvent, Connection, SecondFactor, Share, Team, TeamMember, User
from connections.services.people import accounts, offboarding, second_factors
from connections.services.tokens import token_calls
from connections.services.tokens.fetch import Token
from connections.services.tokens.single_flight import TokenRequirement
from tests import browser_sessions, factories
from tests.api.api_client import Program

BACKENDS = ("django.contrib.auth.backends.ModelBackend", "connections.microsoft.backends.MicrosoftSignIn")


def leave(person: User) -> None:
    """The portal notices that the person's account is disabled in Entra."""
    offboarding.mark_departed(person, how=User.Left.DIRECTORY, cause="It is disabled.", now=timezone.now())


def browser(person: User, backend: str) -> Client:
    client = Client()
    browser_sessions.sign_in(client, person, backend=backend)
    return client


def token_of(program: Program, connection: Connection) -> Any:
    """The token call, as the web process answers it natively and as the view does."""
    call = token_calls.TokenCall(program.text, connection.pk, None, TokenRequirement(0), "192.0.2.1")
    (outcome,) = token_calls.answer([call])
    response = program.get(f"connections/{connection.pk}/token")
    assert isinstance(outcome, Token) is (response.status_code == 200)
    return response


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_browser_ends_at_once(alice: User, backend: str, connection: Connection) -> None:
    client = browser(alice, backend)
    assert client.get("/apps/").status_code == 200
    leave(alice)
    for path in ("/apps/", "/", f"/connections/{connection.pk}/", "/teams/add/"):
        response = client.get(path)
        assert (response.status_code, response["Location"].startswith("/sign-in/")) == (302, True), path
    sharing = {"whom": f"person:{alice.pk}", "level": "use", "understood": "on"}
    assert client.post(f"/connections/{connection.pk}/shares/add/", sharing).status_code == 302
    assert client.post("/teams/add/", {"name": "Mine"}).status_code == 302
    assert not Share.objects.exists()
    assert not Team.objects.exists()


def test_a_suspended_session_comes_back_with_the_person(alice: User) -> None:
    client = browser(alice, BACKENDS[1])
    leave(alice)
    assert client.get("/apps/").status_code == 302
    offboarding.mark_returned(User.objects.get(pk=alice.pk), now=timezone.now())
    assert client.get("/apps/").status_code == 200


def test_a_local_password_does_not_let_her_in_again(alice: User) -> None:
    leave(alice)
    response = Client().post("/sign-in/", {"username": "alice", "password": factories.PASSWORD})
    assert response.status_code == 422
    assert "Sign in with Microsoft" in response.content.decode()
    assert User.objects.get(pk=alice.pk).left_at is not None


@pytest.mark.parametrize("how", ["code", "recovery code"])
def test_nor_does_a_second_factor_after_a_password_given_before(alice: User, how: str) -> None:
    key = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    SecondFactor.objects.create(person=alice, kind=SecondFactor.Kind.APP, name="Phone", secret=key)
    codes = second_factors.make_recovery_codes(alice, actor=alice, now=timezone.now())
    client = Client()
    client.post("/sign-in/", {"username": "alice", "password": factories.PASSWORD})
    leave(alice)
    code = pyotp.TOTP(key).now() if how == "code" else codes[0]
    assert client.post("/sign-in/second-factor/", {"code": code})["Location"] == "/sign-in/"
    assert client.get("/account/").status_code == 302
    assert User.objects.get(pk=alice.pk).left_at is not None


def test_only_a_sign_in_at_microsoft_shows_that_she_is_back(alice: User) -> None:
    leave(alice)
    accounts.signed_in(alice, actor=alice, method="password")
    assert User.objects.get(pk=alice.pk).left_at is not None
    accounts.signed_in(alice, actor=alice, method="microsoft")
    assert User.objects.get(pk=alice.pk).left_at is None


def test_her_keys_open_nothing_and_come_back_with_her(alice: User, bob: User) -> None:
    own = factories.make_connection(owner=alice, name="Mine")
    shared = factories.make_connection(owner=bob)
    Share.objects.create(connection=shared, person=alice, created_by=bob)
    program = Program(alice, expires_at=timezone.now() + timedelta(days=700))
    assert token_of(program, shared).status_code == 200
    leave(alice)
    for connection in (own, shared):
        assert token_of(program, connection).status_code == 401
    assert program.get("tenants").status_code == 401
    assert program.post(f"connections/{shared.pk}/shares", {"person_id": alice.pk}).status_code == 401
    assert ApiKey.objects.get().revoked_at is None
    assert Share.objects.active().count() == 1
    offboarding.mark_returned(User.objects.get(pk=alice.pk), now=timezone.now())
    for connection in (own, shared):
        assert token_of(program, connection).status_code == 200


def test_a_leaver_has_no_rights_anywhere(alice: User, bob: User) -> None:
    own, others = factories.make_connection(owner=alice, name="Mine"), factories.make_connection(owner=bob)
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=alice)
    Share.objects.create(connection=others, team=team, created_by=bob)
    leave(alice)
    departed = User.objects.get(pk=alice.pk)
    for visible in (querysets.visible_connections, querysets.usable_connections, querysets.visible_keys):
        assert not visible(departed).exists()
    for connection in (own, others):
        assert not any(permissions.allowed_actions(departed, connection).values())
        assert not permissions.can_fetch_token(departed, connection)
    assert not permissions.can_manage_registry(departed)
    assert alice not in querysets.it_admins()
    assert alice not in querysets.accounts()


def test_what_she_shared_with_others_goes_on(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=alice, name="Mine")
    Share.objects.create(connection=connection, person=bob, created_by=alice)
    leave(alice)
    assert token_of(Program(bob), connection).status_code == 200
    factories.make_person("dana", is_superuser=True)
    page = (
        browser(User.objects.get(username="dana"), BACKENDS[0]).get(f"/connections/{connection.pk}/").content.decode()
    )
    assert "The owner has left." in page
    assert f"/connections/{connection.pk}/hand-over/" in page


@pytest.fixture
def entra_admin(db: None) -> User:
    """An IT admin and auditor by the app roles of her directory, who is in a team by her Entra group."""
    Team.objects.create(name="Finance", entra_group="group-1")
    claims = {"tid": "t", "oid": "o" * 36, "preferred_username": "eva", "roles": ["ITAdmin"], "groups": ["group-1"]}
    eva = accounts.create_from_directory(claims=claims)
    accounts.update_from_directory(eva, claims=claims)
    return User.objects.get(pk=eva.pk)


def later(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    moment = timezone.now() + timedelta(hours=hours)
    monkeypatch.setattr(timezone, "now", lambda: moment)


def test_roles_and_teams_of_entra_sleep_after_a_day(
    entra_admin: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = factories.make_connection(owner=bob, expires_at=timezone.now() + timedelta(days=9))
    Share.objects.create(connection=connection, team=Team.objects.get(), created_by=bob)
    program = Program(entra_admin)
    assert token_of(program, connection).status_code == 200
    assert program.get("audit-events").status_code == 200
    later(monkeypatch, 23)
    assert token_of(program, connection).status_code == 200
    later(monkeypatch, 2)
    assert token_of(program, connection).status_code == 404
    for path in ("audit-events", "tenants", "people"):
        response = program.get(path)
        assert (response.status_code, response.json()["code"]) == (403, "not_allowed"), path
        assert "sign in to the portal again" in json.dumps(response.json())
    departed = User.objects.get(pk=entra_admin.pk)
    assert not permissions.can_manage_registry(departed)
    assert not permissions.can_issue_key(departed, factories.make_service_account())


def test_the_next_sign_in_wakes_them_and_follows_the_directory(
    entra_admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program(entra_admin)
    later(monkeypatch, 30)
    assert program.get("audit-events").status_code == 403
    claims = {"preferred_username": "eva", "roles": ["ITAdmin"], "groups": []}
    accounts.update_from_directory(User.objects.get(pk=entra_admin.pk), claims=claims)
    assert program.get("audit-events").status_code == 200
    assert not TeamMember.objects.exists()


def test_a_sign_in_without_the_groups_confirms_no_groups(entra_admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, 30)
    eva = User.objects.get(pk=entra_admin.pk)
    accounts.update_from_directory(eva, claims={"preferred_username": "eva", "roles": ["ITAdmin"], "hasgroups": True})
    eva = User.objects.get(pk=eva.pk)
    assert permissions.can_manage_registry(eva)
    assert eva.teams.exists()
    assert not querysets.shares_with(eva).query.is_empty()
    assert eva.groups_read_at is not None
    assert eva.groups_read_at < timezone.now() - timedelta(hours=24)


def test_local_roles_do_not_age(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(alice)
    later(monkeypatch, 1000)
    assert program.get("audit-events").status_code == 200


def test_the_trail_says_that_leaving_suspended_her(alice: User) -> None:
    leave(alice)
    event = AuditEvent.objects.get(action="account.left")
    assert event.changes["suspended"] is True
