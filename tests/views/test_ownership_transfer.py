"""Pages that transfer one connection or all of them, and say beforehand what will break."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import ApiKey, Connection, HandOver, User
from connections.services.api_keys import api_keys
from connections.services.people import ownership_transfer, service_accounts
from connections.services.sharing import shares
from tests import factories
from tests.views.pages import assert_answer, assert_shows
from tests.views.test_people import make_key, page

NOW = timezone.now()


def form(connection: Connection, to: User, **more: Any) -> dict[str, Any]:
    return {"seen_owner": connection.owner_id, "new_owner": f"person:{to.pk}", "grant": "keep", **more}


def test_the_page_shows_who_uses_it_and_which_keys_stop(
    admin: Client, bob: User, dave: User, connection: Connection
) -> None:
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    api_keys.record_token_request(make_key(bob, "Nightly job"), connection, address=None, now=NOW)
    api_keys.record_token_request(make_key(dave, "Report"), connection, address=None, now=NOW)
    api_keys.record_token_request(make_key(bob, "Old job"), connection, address=None, now=NOW - timedelta(days=31))
    text = page(admin, f"/connections/{connection.pk}/hand-over/")
    assert "These API keys of Bob Member lose access" in text
    assert_shows(text, "Nightly job, 1 time", "Report (Dave Stranger)")
    assert "Old job" not in text
    assert "Shares are kept. The new owner can remove access: Dave Stranger" in text


def test_ownership_is_transferred_and_the_previous_owner_is_redirected(
    admin: Client, bob: User, member: Client, dave: User, connection: Connection
) -> None:
    answer = member.post(f"/connections/{connection.pk}/hand-over/", form(connection, dave), follow=True)
    assert answer.redirect_chain[-1][0] == "/connections/", "bob no longer sees it"
    assert "Ownership of Invoices is transferred to Dave Stranger, who needs to sign in" in answer.content.decode()
    given = Connection.objects.get()
    answer = admin.post(f"/connections/{given.pk}/hand-over/", form(given, bob, grant="cut"), follow=True)
    assert answer.redirect_chain[-1][0] == f"/connections/{given.pk}/"
    assert "issue tokens." in answer.content.decode()


def test_a_stale_page_shows_an_error(alice: User, admin: Client, dave: User, connection: Connection) -> None:
    typed = form(connection, factories.make_person("eve"))
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    assert_answer(
        admin.post(f"/connections/{connection.pk}/hand-over/", typed),
        422,
        "was transferred to Dave Stranger in the meantime",
    )
    assert Connection.objects.get().owner == dave


def test_a_taken_name_shows_an_error_at_its_field(admin: Client, dave: User, connection: Connection) -> None:
    factories.make_connection(owner=dave)
    answer = admin.post(f"/connections/{connection.pk}/hand-over/", form(connection, dave))
    assert "new_name" in answer.context["form"].errors
    admin.post(f"/connections/{connection.pk}/hand-over/", form(connection, dave, new_name="Other invoices"))
    assert Connection.objects.get(pk=connection.pk).name == "Other invoices"


@pytest.mark.parametrize(
    "typed",
    [
        {},
        {"new_owner": ""},
        {"new_owner": "9" * 30},
        {"new_owner": "\x00"},
        {"grant": "everything"},
        {"seen_owner": "x"},
        {"seen_owner": "9" * 40},
        {"new_name": "x" * 200},
    ],
    ids=str,
)
def test_invalid_input_changes_nothing(
    admin: Client, dave: User, typed: dict[str, Any], connection: Connection
) -> None:
    sent = {**form(connection, dave), **typed} if typed else {"anything": "else"}
    assert admin.post(f"/connections/{connection.pk}/hand-over/", sent).status_code == 422
    assert not HandOver.objects.exists()


def test_keeping_tokens_is_not_offered_without_tokens(alice: User, admin: Client, bob: User, dave: User) -> None:
    dead = factories.make_connection(owner=bob, status="reconnect_needed", status_code="AADSTS50173")
    robot = factories.make_app_only_connection(owner=alice)
    assert "The previous sign-in has expired and is deleted" in page(admin, f"/connections/{dead.pk}/hand-over/")
    assert "No sign-in is needed" in page(admin, f"/connections/{robot.pk}/hand-over/")
    assert admin.post(f"/connections/{robot.pk}/hand-over/", form(robot, dave)).status_code == 302
    assert Connection.objects.get(pk=robot.pk).owner == dave


def test_the_owner_cannot_enable_what_an_it_admin_disabled(alice: User, bob: User, member: Client) -> None:
    from connections.services.connections import connections

    connection = factories.make_connection(owner=bob)
    connections.disable(connection, actor=alice, now=NOW)
    text = page(member, f"/connections/{connection.pk}/")
    assert_shows(text, "Alice Admin, an IT admin, disabled this connection", "Only an IT admin can enable it again")
    for path in ("enable/", "hand-over/", "sign-in/"):
        assert f'/connections/{connection.pk}/{path}"' not in text, path
        assert member.post(f"/connections/{connection.pk}/{path}").status_code == 403
    assert f'/connections/{connection.pk}/enable/"' in page(
        factories.signed_in(alice), f"/connections/{connection.pk}/"
    )


def test_everything_goes_to_one_new_owner_except_what_goes_to_another(admin: Client, bob: User, dave: User) -> None:
    first, second, third = (factories.make_connection(owner=bob, name=name) for name in ("One", "Two", "Three"))
    sent = {
        "everything_to": "dave",
        "grant": "cut",
        f"take_{first.pk}": "on",
        f"take_{second.pk}": "on",
        f"to_{second.pk}": "alice",
    }
    answer = admin.post(f"/people/{bob.pk}/hand-over/", sent, follow=True)
    assert answer.redirect_chain[-1][0] == f"/people/{bob.pk}/hand-over/", "one is left to be done"
    assert "2 connections are transferred" in answer.content.decode()
    owners = dict(Connection.objects.values_list("name", "owner__username"))
    assert owners == {"One": "dave", "Two": "alice", "Three": "bob"}
    assert Connection.objects.get(pk=first.pk).status == "reconnect_needed"
    answer = admin.post(
        f"/people/{bob.pk}/hand-over/", {"everything_to": "dave", "grant": "keep", f"take_{third.pk}": "on"}
    )
    assert answer["Location"] == f"/people/{bob.pk}/"


def test_failures_are_shown_in_their_rows_and_the_rest_is_transferred(admin: Client, bob: User, dave: User) -> None:
    first, second = (factories.make_connection(owner=bob, name=name) for name in ("One", "Two"))
    factories.make_connection(owner=dave, name="Two")
    sent = {"everything_to": "dave", "grant": "keep", f"take_{first.pk}": "on", f"take_{second.pk}": "on"}
    answer = admin.post(f"/people/{bob.pk}/hand-over/", sent)
    assert_answer(answer, 422, "Dave Stranger already has a connection named “Two”")
    assert Connection.objects.get(pk=first.pk).owner == dave
    assert Connection.objects.get(pk=second.pk).owner == bob
    admin.post(f"/people/{bob.pk}/hand-over/", {**sent, f"name_{second.pk}": "Two of Bob"})
    assert Connection.objects.get(pk=second.pk).name == "Two of Bob"


@pytest.mark.parametrize(
    "sent", [{}, {"everything_to": ""}, {"grant": "keep"}, {"everything_to": "bob", "grant": "keep"}], ids=str
)
def test_choosing_nothing_transfers_nothing(admin: Client, bob: User, sent: dict[str, Any]) -> None:
    factories.make_connection(owner=bob)
    assert admin.post(f"/people/{bob.pk}/hand-over/", sent or {"x": "y"}).status_code == 422
    assert not HandOver.objects.exists()


def test_an_unknown_new_owner_shows_an_error_in_the_row(
    admin: Client, bob: User, carol: User, connection: Connection
) -> None:
    for typed in ("nobody", "carol", "bob", "x" * 400):
        sent = {"grant": "keep", f"take_{connection.pk}": "on", f"to_{connection.pk}": typed}
        answer = admin.post(f"/people/{bob.pk}/hand-over/", sent)
        assert f"to_{connection.pk}" in answer.context["form"].errors, typed
    assert Connection.objects.get().owner == bob


def test_keys_of_a_leaver_are_listed_with_what_they_fetched_and_revoked(
    admin: Client, bob: User, dave: User, connection: Connection
) -> None:
    first, second = make_key(bob, "Nightly job"), make_key(bob, "Unused")
    others = make_key(dave)
    api_keys.record_token_request(first, connection, address=None, now=NOW)
    text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert_shows(text, "Recent token requests by Nightly job (", "; loses access)")
    assert_shows(text, "token requests within 30 days: Invoices", "no token requests within 30 days")
    admin.post(f"/people/{bob.pk}/hand-over/", {"revoke": "1", "key": [second.pk, others.pk, "x", "9" * 30]})
    assert set(ApiKey.objects.filter(revoked_at__isnull=False)) == {second}


def test_the_number_of_queries_does_not_grow_with_the_connections(admin: Client, bob: User, max_queries: Any) -> None:
    for number in range(60):
        factories.make_connection(owner=bob, name=f"Connection {number}")
    with max_queries(15):
        text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert "10 more will be shown" in text


def test_a_person_who_owns_nothing_has_an_empty_page(admin: Client, bob: User) -> None:
    text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert_shows(text, "own any connections", "No active API keys")


def test_service_accounts_a_leaver_is_responsible_for_are_named(alice: User, bob: User) -> None:
    facts: dict[str, Any] = {"name": "Invoice robot", "purpose": "Invoices", "admin": False, "auditor": False}
    account = service_accounts.create(**facts, responsible=bob, actor=alice, now=NOW)
    client = factories.signed_in(alice)
    assert f'href="/service-accounts/{account.pk}/edit/"' in page(client, f"/people/{bob.pk}/hand-over/")
    assert "Invoice robot" in page(client, f"/people/{bob.pk}/")
    assert client.get(f"/people/{account.pk}/").status_code == 404
