"""Pages about connections: what each person sees and is offered, and where the forms lead."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections.models import AppRegistration, Connection, Share, User
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import assert_answer, assert_hides, assert_shows, text


def page(connection: Connection) -> str:
    return reverse("connection", args=[connection.pk])


def test_the_list_asks_the_same_number_of_queries_for_one_and_for_many(admin: Client, max_queries: Any) -> None:
    for number in range(40):
        factories.make_connection(name=f"Connection {number:02}")
    with max_queries(13):
        assert "Connection 39" in text(admin.get("/connections/"))


def test_the_list_has_both_empty_states(member: Client, bob: User) -> None:
    assert "No results found" not in text(member.get("/connections/"))
    factories.make_connection(owner=bob)
    assert "No results found" in text(member.get("/connections/", {"q": "zzz"}))


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
def test_a_page_offers_what_is_allowed(person: str, offered: set[str], sandbox: Control) -> None:
    connection = factories.make_connection()
    user = User.objects.filter(username=person).first() or factories.make_person(person)
    shown = text(factories.signed_in(user).get(page(connection)))
    assert {name for name in OFFERS if f'"{reverse(name, args=[connection.pk])}"' in shown} == offered


@pytest.mark.parametrize("status", [status for status in Connection.Status if status != "active"])
def test_a_page_says_why_and_who_must_act(member: Client, bob: User, status: str) -> None:
    connection = factories.make_connection(
        owner=bob, status=status, status_cause="The cause as Microsoft told it.", status_action="What helps."
    )
    shown = text(member.get(page(connection)))
    assert_shows(shown, "The cause as Microsoft told it.", "What helps.")
    assert Connection.Status(status).label in shown


def test_a_connection_that_waits_for_its_app_registration_says_so(member: Client, connection: Connection) -> None:
    type(connection.app_registration).objects.update(
        rejected_at=timezone.now() - timedelta(hours=1), rejected_cause="Its secret has expired."
    )
    shown = text(member.get(page(connection)))
    assert_shows(shown, "App credential rejected", "Its secret has expired.")


def test_with_one_app_registration_there_is_nothing_to_choose(member: Client) -> None:
    assert_answer(member.get("/connect/outlook/"), 200, "No app registrations yet")
    factories.make_app_registration()
    shown = text(member.get("/connect/outlook/"))
    assert_shows(shown, "through Contoso Connections", 'name="app"')
    assert "<select" not in shown
    assert member.get("/connections/add/?app=3")["Location"] == "/connect/?app=3"


def test_a_preview_works_permissions_out_and_saves_nothing(member: Client, app: AppRegistration) -> None:
    typed = {"kind": "authorization_code", "name": "Mine", "chosen": ["calendar.events"], "preview": "1"}
    assert_shows(text(member.post(f"/connect/several/?app={app.pk}", typed)), "Calendars.Read", 'value="Mine"')
    part = text(member.post(f"/connect/several/?app={app.pk}", typed, headers={"hx-request": "true"}))
    assert "Calendars.Read" in part
    assert "<html" not in part
    assert not Connection.objects.exists()


def test_removing_asks_first_and_then_leads_to_the_list(member: Client, dave: User, connection: Connection) -> None:
    path = reverse("connection_remove", args=[connection.pk])
    assert "Not shared, and no token requests" in text(member.get(path))
    Share.objects.create(connection=connection, person=dave)
    assert f"Shared with {dave}" in text(member.get(path))
    assert Connection.objects.exists()
    assert member.post(path)["Location"] == "/connections/"
    assert not Connection.objects.exists()
    assert member.post(path).status_code == 404


def test_checking_what_cannot_be_checked_says_why(member: Client, bob: User, sandbox: Control) -> None:
    connection = factories.make_connection(owner=bob, status=Connection.Status.DISABLED)
    answer = member.post(reverse("connection_check", args=[connection.pk]), follow=True)
    assert "Nobody has signed in for this connection yet, or it is disabled" in text(answer)


def test_signing_in_for_an_app_only_connection_makes_no_sense(admin: Client, alice: User, sandbox: Control) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    assert_answer(admin.post(reverse("connection_sign_in", args=[connection.pk])), 403, "App-only connections don")


@pytest.mark.parametrize("status", ["reconnect_needed", "consent_needed", "blocked", "disabled"])
def test_a_page_of_a_broken_connection_calls_nothing_in_it_fine(member: Client, bob: User, status: str) -> None:
    connection = factories.make_connection(owner=bob, status=status)
    factories.make_mailbox_access(connection, factories.make_mailbox(), state="reachable")
    shown = text(member.get(page(connection)))
    assert "Reachable when last tested" in shown
    assert_hides(shown, "exactly the permissions needed", "state-ok")


def test_an_app_only_connection_that_waits_speaks_of_no_sign_in(admin: Client, alice: User) -> None:
    connection = factories.make_app_only_connection(owner=alice, status="pending", granted_scopes="")
    Connection.objects.filter(pk=connection.pk).update(connected_at=None)
    shown = text(admin.get(page(connection)))
    assert_shows(shown, "Not connected yet", "No permissions granted yet", "Test the connection, or remove it.")
    assert_hides(shown, "Not signed in yet", "first sign-in", "isn't complete", "Sign in to")


def test_notes_about_the_other_type_of_connection_are_left_out(admin: Client, alice: User) -> None:
    chosen = ["files.read", "shared_mailbox.read"]
    delegated = factories.make_connection(owner=alice, capabilities=chosen)
    app_only = factories.make_app_only_connection(owner=alice, capabilities=chosen)
    about_app_only, about_delegated = (
        "For app-only connections, this always includes",
        "With a delegated connection, the signed-in",
    )
    shown = text(admin.get(page(delegated)))
    assert about_delegated in shown
    assert about_app_only not in shown
    shown = text(admin.get(page(app_only)))
    assert about_app_only in shown
    assert about_delegated not in shown


def test_the_owner_is_addressed_and_others_read_who_needs_to_act(member: Client, admin: Client, bob: User) -> None:
    connection = factories.make_connection(owner=bob, status="reconnect_needed")
    assert_shows(text(member.get(page(connection))), "You need to sign in again", "Your action is required.")
    shown = text(admin.get(page(connection)))
    assert_shows(shown, "The owner needs to sign in again", "Assigned to: Bob Member (owner)")
    assert "You need to sign in" not in shown
    Connection.objects.filter(pk=connection.pk).update(status_action="The owner must sign in again.")
    assert "You need to sign in again." in text(member.get(page(connection)))
    assert "The owner needs to sign in again." in text(admin.get(page(connection)))
