"""The pages of handing over say what breaks before it is pressed, and do it for one or for all."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from connections.models import ApiKey, Connection, HandOver, User
from connections.services.api_keys import api_keys
from connections.services.people import ownership_transfer, service_accounts
from connections.services.sharing import shares
from tests import factories
from tests.views.pages import assert_shows
from tests.views.test_people import make_key, page

NOW = timezone.now()


def form(connection: Connection, to: User, **more: Any) -> dict[str, Any]:
    return {"seen_owner": connection.owner_id, "new_owner": to.pk, "grant": "keep", **more}


def test_the_page_says_who_uses_it_and_which_keys_stop(admin: Client, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    api_keys.record_token_request(make_key(bob, "Nightly job"), connection, address=None, now=NOW)
    api_keys.record_token_request(make_key(dave, "Report"), connection, address=None, now=NOW)
    api_keys.record_token_request(make_key(bob, "Old job"), connection, address=None, now=NOW - timedelta(days=31))
    text = page(admin, f"/connections/{connection.pk}/hand-over/")
    assert "Keys of Bob Member can no longer fetch its tokens" in text
    assert_shows(text, "Nightly job, 1 time", "Report of Dave Stranger")
    assert "Old job" not in text
    assert "Shares stay, and the new owner can end them: Dave Stranger" in text


def test_it_is_handed_over_and_the_giver_is_led_on(admin: Client, member: Client, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    answer = member.post(f"/connections/{connection.pk}/hand-over/", form(connection, dave), follow=True)
    assert answer.redirect_chain[-1][0] == "/connections/", "bob no longer sees it"
    assert "Invoices belongs to Dave Stranger now, who is asked to sign in" in answer.content.decode()
    given = Connection.objects.get()
    answer = admin.post(f"/connections/{given.pk}/hand-over/", form(given, bob, grant="cut"), follow=True)
    assert answer.redirect_chain[-1][0] == f"/connections/{given.pk}/"
    assert "Until then it gives no tokens" in answer.content.decode()


def test_a_page_that_has_become_old_is_told(admin: Client, alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    eve = factories.make_person("eve")
    typed = form(connection, eve)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=alice, now=NOW)
    answer = admin.post(f"/connections/{connection.pk}/hand-over/", typed)
    assert answer.status_code == 422
    assert "belongs to Dave Stranger now" in answer.content.decode()
    assert Connection.objects.get().owner == dave


def test_a_name_that_is_taken_stands_next_to_its_field(admin: Client, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
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
def test_invalid_forms_are_refused(admin: Client, bob: User, dave: User, typed: dict[str, Any]) -> None:
    connection = factories.make_connection(owner=bob)
    sent = {**form(connection, dave), **typed} if typed else {"anything": "else"}
    answer = admin.post(f"/connections/{connection.pk}/hand-over/", sent)
    assert answer.status_code == 422
    assert not HandOver.objects.exists()


def test_nothing_is_kept_where_there_is_nothing_to_keep(admin: Client, alice: User, bob: User, dave: User) -> None:
    dead = factories.make_connection(owner=bob, status="reconnect_needed", status_code="AADSTS50173")
    robot = factories.make_app_only_connection(owner=alice)
    assert "there is nothing to keep" in page(admin, f"/connections/{dead.pk}/hand-over/")
    assert "Nobody needs to sign in" in page(admin, f"/connections/{robot.pk}/hand-over/")
    assert admin.post(f"/connections/{robot.pk}/hand-over/", form(robot, dave)).status_code == 302
    assert Connection.objects.get(pk=robot.pk).owner == dave


def test_the_owner_cannot_enable_what_an_it_admin_disabled(
    admin: Client, alice: User, member: Client, bob: User
) -> None:
    from connections.services.connections import connections

    connection = factories.make_connection(owner=bob)
    connections.disable(connection, actor=alice, now=NOW)
    text = page(member, f"/connections/{connection.pk}/")
    assert_shows(text, "Alice Admin, an IT admin, disabled this connection", "Only an IT admin can enable it again")
    for path in ("enable/", "hand-over/", "sign-in/"):
        assert f'/connections/{connection.pk}/{path}"' not in text, path
        assert member.post(f"/connections/{connection.pk}/{path}").status_code == 403
    assert f'/connections/{connection.pk}/enable/"' in page(admin, f"/connections/{connection.pk}/")


def test_everything_goes_to_one_new_owner_or_to_another(admin: Client, bob: User, dave: User) -> None:
    one, two, three = (factories.make_connection(owner=bob, name=name) for name in ("One", "Two", "Three"))
    sent = {
        "everything_to": dave.pk,
        "grant": "cut",
        f"take_{one.pk}": "on",
        f"take_{two.pk}": "on",
        f"to_{two.pk}": "alice",
    }
    answer = admin.post(f"/people/{bob.pk}/hand-over/", sent, follow=True)
    assert answer.redirect_chain[-1][0] == f"/people/{bob.pk}/hand-over/", "one is left to be done"
    assert "2 connections have a new owner" in answer.content.decode()
    owners = dict(Connection.objects.values_list("name", "owner__username"))
    assert owners == {"One": "dave", "Two": "alice", "Three": "bob"}
    assert Connection.objects.get(pk=one.pk).status == "reconnect_needed"
    answer = admin.post(
        f"/people/{bob.pk}/hand-over/", {"everything_to": dave.pk, "grant": "keep", f"take_{three.pk}": "on"}
    )
    assert answer["Location"] == f"/people/{bob.pk}/"


def test_a_failure_is_told_in_its_row_the_rest_is_done(admin: Client, bob: User, dave: User) -> None:
    one, two = (factories.make_connection(owner=bob, name=name) for name in ("One", "Two"))
    factories.make_connection(owner=dave, name="Two")
    sent = {"everything_to": dave.pk, "grant": "keep", f"take_{one.pk}": "on", f"take_{two.pk}": "on"}
    answer = admin.post(f"/people/{bob.pk}/hand-over/", sent)
    assert answer.status_code == 422
    assert "Dave Stranger already has a connection called “Two”" in answer.content.decode()
    assert Connection.objects.get(pk=one.pk).owner == dave
    assert Connection.objects.get(pk=two.pk).owner == bob
    admin.post(f"/people/{bob.pk}/hand-over/", {**sent, f"name_{two.pk}": "Two of Bob"})
    assert Connection.objects.get(pk=two.pk).name == "Two of Bob"


@pytest.mark.parametrize(
    "sent", [{}, {"everything_to": ""}, {"grant": "keep"}, {"everything_to": "bob", "grant": "keep"}], ids=str
)
def test_nothing_chosen_hands_nothing_over(admin: Client, bob: User, sent: dict[str, Any]) -> None:
    factories.make_connection(owner=bob)
    answer = admin.post(f"/people/{bob.pk}/hand-over/", sent or {"x": "y"})
    assert answer.status_code == 422
    assert not HandOver.objects.exists()


def test_a_new_owner_nobody_knows_is_told_in_the_row(admin: Client, bob: User, carol: User) -> None:
    connection = factories.make_connection(owner=bob)
    for typed in ("nobody", "carol", "bob", "x" * 400):
        sent = {"grant": "keep", f"take_{connection.pk}": "on", f"to_{connection.pk}": typed}
        answer = admin.post(f"/people/{bob.pk}/hand-over/", sent)
        assert f"to_{connection.pk}" in answer.context["form"].errors, typed
    assert Connection.objects.get().owner == bob


def test_keys_of_a_leaver_are_listed_and_revoked(admin: Client, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    first, second = make_key(bob, "Nightly job"), make_key(bob, "Unused")
    others = make_key(dave)
    api_keys.record_token_request(first, connection, address=None, now=NOW)
    text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert "Fetched lately by Nightly job (" in text
    assert_shows(text, "; stops)", "fetched within 30 days: Invoices", "fetched nothing within 30 days")
    admin.post(f"/people/{bob.pk}/hand-over/", {"revoke": "1", "key": [second.pk, others.pk, "x", "9" * 30]})
    revoked = set(ApiKey.objects.filter(revoked_at__isnull=False))
    assert revoked == {second}


def test_the_page_asks_as_often_for_many_connections_as_for_one(
    admin: Client, bob: User, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(60):
        factories.make_connection(owner=bob, name=f"Connection {number}")
    with django_assert_max_num_queries(14):
        text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert "10 more follow" in text


def test_a_person_who_owns_nothing_has_an_empty_page(admin: Client, bob: User) -> None:
    text = page(admin, f"/people/{bob.pk}/hand-over/")
    assert_shows(text, "owns no connection", "has no API key that works")


def test_service_accounts_a_leaver_is_responsible_for_are_named(admin: Client, alice: User, bob: User) -> None:
    facts: dict[str, Any] = {"name": "Invoice robot", "purpose": "Invoices", "admin": False, "auditor": False}
    made = service_accounts.create(**facts, responsible=bob, actor=alice, now=NOW)
    assert f'href="/service-accounts/{made.pk}/edit/"' in page(admin, f"/people/{bob.pk}/hand-over/")
    assert "Invoice robot" in page(admin, f"/people/{bob.pk}/")
    assert admin.get(f"/people/{made.pk}/").status_code == 404
