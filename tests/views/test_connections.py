"""Pages about connections: what each person is shown and offered, and where the forms lead."""

from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from connections.models import Connection, Share, User
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import SignIn, text


def page(connection: Connection) -> str:
    return reverse("connection", args=[connection.pk])


def test_the_list_asks_the_same_number_of_queries_for_one_and_for_many(
    signed_in: SignIn, alice: User, django_assert_max_num_queries: Any
) -> None:
    client = signed_in(alice)
    for number in range(40):
        factories.make_connection(name=f"Connection {number:02}")
    with django_assert_max_num_queries(8):
        assert "Connection 39" in text(client.get("/connections/"))


def test_the_list_has_both_empty_states(signed_in: SignIn, bob: User) -> None:
    client = signed_in(bob)
    assert "Nothing matches" not in text(client.get("/connections/"))
    factories.make_connection(owner=bob)
    assert "Nothing matches" in text(client.get("/connections/", {"q": "zzz"}))


def test_search_and_filters_narrow_the_list(signed_in: SignIn, alice: User, bob: User) -> None:
    factories.make_connection(name="Invoices")
    factories.make_connection(
        name="Orders", status=Connection.Status.RECONNECT_NEEDED, account_username="eve@contoso.example"
    )
    factories.make_app_only_connection(name="Robot", owner=alice)
    client = signed_in(alice)

    def shown(**query: str) -> set[str]:
        listed = text(client.get("/connections/", query))
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
def test_a_page_says_why_and_who_must_act(signed_in: SignIn, bob: User, status: str) -> None:
    connection = factories.make_connection(
        owner=bob, status=status, status_cause="The cause as Microsoft told it.", status_action="What helps."
    )
    shown = text(signed_in(bob).get(page(connection)))
    assert "The cause as Microsoft told it." in shown
    assert "What helps." in shown
    assert Connection.Status(status).label in shown


def test_a_connection_that_waits_for_its_app_registration_says_so(signed_in: SignIn, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    type(connection.app_registration).objects.update(
        rejected_at=timezone.now() - timedelta(hours=1), rejected_cause="Its secret has expired."
    )
    shown = text(signed_in(bob).get(page(connection)))
    assert "Blocked by its app registration" in shown
    assert "Its secret has expired." in shown


def test_with_one_app_registration_there_is_nothing_to_choose(signed_in: SignIn, bob: User) -> None:
    client = signed_in(bob)
    assert client.get("/connections/add/").status_code == 200
    app = factories.make_app_registration()
    assert client.get("/connections/add/")["Location"] == f"/connections/add/{app.pk}/"


def test_a_preview_works_permissions_out_and_saves_nothing(signed_in: SignIn, bob: User) -> None:
    app = factories.make_app_registration()
    typed = {"kind": "authorization_code", "name": "Mine", "chosen": ["calendar.events"], "preview": "1"}
    client = signed_in(bob)
    whole = text(client.post(f"/connections/add/{app.pk}/", typed))
    assert "Calendars.Read" in whole
    assert 'value="Mine"' in whole
    part = text(client.post(f"/connections/add/{app.pk}/", typed, headers={"hx-request": "true"}))
    assert "Calendars.Read" in part
    assert "<html" not in part
    assert not Connection.objects.exists()


def test_removing_asks_first_and_then_leads_to_the_list(signed_in: SignIn, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    client = signed_in(bob)
    path = reverse("connection_remove", args=[connection.pk])
    assert "Nobody else uses it" in text(client.get(path))
    Share.objects.create(connection=connection, person=dave)
    assert f"Shared with {dave}" in text(client.get(path))
    assert Connection.objects.exists()
    assert client.post(path)["Location"] == "/connections/"
    assert not Connection.objects.exists()
    assert client.post(path).status_code == 404


def test_checking_what_cannot_be_checked_says_why(signed_in: SignIn, bob: User, sandbox: Control) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.DISABLED)
    answer = signed_in(bob).post(reverse("connection_check", args=[connection.pk]), follow=True)
    assert "There is nothing to check" in text(answer)


def test_signing_in_for_an_app_only_connection_makes_no_sense(signed_in: SignIn, alice: User, sandbox: Control) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    answer = signed_in(alice).post(reverse("connection_sign_in", args=[connection.pk]))
    assert answer.status_code == 403
    assert "no person who could sign in" in text(answer)
