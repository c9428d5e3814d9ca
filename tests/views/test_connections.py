"""Pages about connections: what each person sees and is offered, and where the forms lead."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections.models import Connection, Share, User
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import SignIn, assert_shows, text


def page(connection: Connection) -> str:
    return reverse("connection", args=[connection.pk])


def test_the_list_asks_the_same_number_of_queries_for_one_and_for_many(
    admin: Client, django_assert_max_num_queries: Any
) -> None:
    for number in range(40):
        factories.make_connection(name=f"Connection {number:02}")
    with django_assert_max_num_queries(8):
        assert "Connection 39" in text(admin.get("/connections/"))


def test_the_list_has_both_empty_states(member: Client, bob: User) -> None:
    assert "Nothing matches" not in text(member.get("/connections/"))
    factories.make_connection(owner=bob)
    assert "Nothing matches" in text(member.get("/connections/", {"q": "zzz"}))


def test_search_and_filters_narrow_the_list(admin: Client, alice: User, bob: User) -> None:
    factories.make_connection(name="Invoices")
    factories.make_connection(
        name="Orders", status=Connection.Status.RECONNECT_NEEDED, account_username="eve@contoso.example"
    )
    factories.make_app_only_connection(name="Robot", owner=alice)

    def shown(**query: str) -> set[str]:
        listed = text(admin.get("/connections/", query))
        return {name for name in ("Invoices", "Orders", "Robot") if f">{name}<" in listed}

    assert shown() == {"Invoices", "Orders", "Robot"}
    assert shown(q="eve@") == {"Orders"}
    assert shown(q="bob") == {"Invoices", "Orders"}
    assert shown(status="reconnect_needed") == {"Orders"}
    assert shown(type="client_credentials") == {"Robot"}
    assert shown(status="active", type="authorization_code") == {"Invoices"}


OFFERS = ("connection_sign_in", "connection_edit", "connection_check", "connection_disable", "connection_remove")


@pytest.mark.parametrize(
    ("person", "offered"),
    [
        ("bob", set(OFFERS)),
        ("alice", {"connection_check", "connection_disable", "connection_remove"}),
        ("carol", set()),
    ],
)
def test_a_page_offers_what_is_allowed(signed_in: SignIn, person: str, offered: set[str], sandbox: Control) -> None:
    connection = factories.make_connection()
    user = User.objects.filter(username=person).first() or factories.make_person(person)
    shown = text(signed_in(user).get(page(connection)))
    assert {name for name in OFFERS if f'"{reverse(name, args=[connection.pk])}"' in shown} == offered


@pytest.mark.parametrize("status", [status for status in Connection.Status if status != "active"])
def test_a_page_says_why_and_who_must_act(member: Client, bob: User, status: str) -> None:
    connection = factories.make_connection(
        owner=bob, status=status, status_cause="The cause as Microsoft told it.", status_action="What helps."
    )
    shown = text(member.get(page(connection)))
    assert_shows(shown, "The cause as Microsoft told it.", "What helps.")
    assert Connection.Status(status).label in shown


def test_a_connection_that_waits_for_its_app_registration_says_so(member: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    type(connection.app_registration).objects.update(
        rejected_at=timezone.now() - timedelta(hours=1), rejected_cause="Its secret has expired."
    )
    shown = text(member.get(page(connection)))
    assert_shows(shown, "Blocked by its app registration", "Its secret has expired.")


def test_with_one_app_registration_there_is_nothing_to_choose(member: Client) -> None:
    assert member.get("/connections/add/").status_code == 200
    app = factories.make_app_registration()
    assert member.get("/connections/add/")["Location"] == f"/connections/add/{app.pk}/"


def test_a_preview_works_permissions_out_and_saves_nothing(member: Client) -> None:
    app = factories.make_app_registration()
    typed = {"kind": "authorization_code", "name": "Mine", "chosen": ["calendar.events"], "preview": "1"}
    whole = text(member.post(f"/connections/add/{app.pk}/", typed))
    assert_shows(whole, "Calendars.Read", 'value="Mine"')
    part = text(member.post(f"/connections/add/{app.pk}/", typed, headers={"hx-request": "true"}))
    assert "Calendars.Read" in part
    assert "<html" not in part
    assert not Connection.objects.exists()


def test_removing_asks_first_and_then_leads_to_the_list(member: Client, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    path = reverse("connection_remove", args=[connection.pk])
    assert "Nobody else uses it" in text(member.get(path))
    Share.objects.create(connection=connection, person=dave)
    assert f"Shared with {dave}" in text(member.get(path))
    assert Connection.objects.exists()
    assert member.post(path)["Location"] == "/connections/"
    assert not Connection.objects.exists()
    assert member.post(path).status_code == 404


def test_checking_what_cannot_be_checked_says_why(member: Client, bob: User, sandbox: Control) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.DISABLED)
    answer = member.post(reverse("connection_check", args=[connection.pk]), follow=True)
    assert "There is nothing to check" in text(answer)


def test_signing_in_for_an_app_only_connection_makes_no_sense(admin: Client, alice: User, sandbox: Control) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    answer = admin.post(reverse("connection_sign_in", args=[connection.pk]))
    assert answer.status_code == 403
    assert "no person who could sign in" in text(answer)
