"""Renamed accounts: the connection's names, and so the login_hint, follow the ID token of a refresh."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.utils import timezone

from connections.microsoft import token_endpoint
from connections.models import AuditEvent, Connection
from connections.services.connections import sign_in
from connections.services.tokens import account_names, scheduler
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def due_connection(sandbox: Control, **overrides: Any) -> Connection:
    return factories.make_granted_connection(sandbox, refresh_after=NOW - timedelta(minutes=1), **overrides)


def test_a_renamed_account_keeps_its_connection_under_its_new_name(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    sandbox.set_person(factories.ADA, new_upn="countess@contoso.example")
    scheduler.sweep(now=NOW)

    after = Connection.objects.select_related("app_registration__tenant").get()
    assert (after.status, after.account_username) == ("active", "countess@contoso.example")
    assert (after.account_oid, after.account_tid) == (connection.account_oid, connection.account_tid)
    assert sign_in.sign_in_client(after).extra == {"login_hint": "countess@contoso.example"}
    event = AuditEvent.objects.get(action="connection.changed")
    assert event.changes["account_username"] == [factories.ADA, "countess@contoso.example"]


def test_an_unchanged_name_writes_nothing(sandbox: Control) -> None:
    due_connection(sandbox)
    scheduler.sweep(now=NOW)
    assert not AuditEvent.objects.filter(action="connection.changed").exists()


@pytest.mark.parametrize(
    "lie",
    [
        {"oid": "99999999-0000-4000-8000-000000000000"},
        {"tid": "99999999-0000-4000-8000-000000000000"},
        {"oid": None},
        {"aud": "99999999-0000-4000-8000-000000000000"},
        {"preferred_username": "", "name": ""},
    ],
    ids=["other account", "other directory", "no account", "other application", "no name"],
)
def test_an_id_token_about_something_else_changes_nothing(sandbox: Control, lie: dict[str, Any]) -> None:
    connection = due_connection(sandbox)
    assert not follow(connection, **lie)
    assert Connection.objects.get().account_username == factories.ADA


def test_a_name_with_characters_that_no_database_stores_harms_nothing(sandbox: Control) -> None:
    connection = due_connection(sandbox)
    assert follow(connection, preferred_username="new\x00@contoso.example\n", name="Ada\ud800" + "x" * 1000)
    after = Connection.objects.get()
    assert after.account_username == "new@contoso.example"
    assert len(after.account_name) == 256


@pytest.mark.parametrize("id_token", [None, "", "rubbish", "a.b.c", "x" * 10_000])
def test_rubbish_instead_of_an_id_token_harms_nothing(sandbox: Control, id_token: str | None) -> None:
    connection = due_connection(sandbox)
    answer = replace(token_endpoint.token_set({"access_token": "x"}), id_token=id_token)
    (claimed,) = scheduler.claim_one(connection.pk, now=NOW)
    assert not account_names.follow(connection.app_registration, claimed, answer)


def follow(connection: Connection, **changes: Any) -> bool:
    claims = {
        "aud": factories.CLIENT_ID,
        "tid": factories.DIRECTORY_ID,
        "oid": factories.ADA_ID,
        "preferred_username": "new@contoso.example",
        "name": "New Name",
    }
    token = jwt.encode(claims | changes, "a key of at least thirty-two bytes, as HS256 wants", algorithm="HS256")
    answer = token_endpoint.token_set({"access_token": "x", "id_token": token})
    (claimed,) = scheduler.claim_one(connection.pk, now=NOW)
    return account_names.follow(connection.app_registration, claimed, answer)
