"""The way in: how many pages and inputs it takes from nothing to a connection that works."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Request

from connections.models import AppRegistration, Connection, Tenant, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories, second_idp
from tests.browser.browser_users import Come, Start, Visitor
from tests.second_idp import AnotherMicrosoft


class Counted:
    """A visitor whose inputs are counted, and the forms that are sent to the portal."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.inputs, self.forms = visitor, 0, 0
        visitor.page.on("request", self._on_request)

    def _on_request(self, request: Request) -> None:
        sent = request.method == "POST" and request.resource_type == "document"
        self.forms += sent and request.url.startswith(self.visitor.portal.url)

    def type_in(self, label: str, value: str) -> None:
        self.inputs += 1
        self.visitor.page.get_by_label(label).filter(visible=True).first.fill(value)

    def tick(self, label: str) -> None:
        self.inputs += 1
        self.visitor.tick(label)

    def select(self, label: str, value: str) -> None:
        self.inputs += 1
        self.visitor.page.get_by_label(label).select_option(value)


@pytest.fixture
def other() -> Iterator[AnotherMicrosoft]:
    server = AnotherMicrosoft()
    yield server
    server.stop()


def enter_app(admin: Counted, *, directory: str, client_id: str, secret: str) -> None:
    admin.type_in("Application (client) ID", client_id)
    admin.type_in("Directory (tenant) ID", directory)
    admin.select("Environment", "sandbox")
    admin.type_in("Client secret value", secret)


def test_an_it_admin_connects_from_nothing_on_one_page(
    portal: Start, visitor: Come, sandbox: Control, alice: User
) -> None:
    here = visitor(portal(), "alice")
    admin = Counted(here)
    here.open("/connect/")
    here.follow("Microsoft Outlook 365", exact=False)
    here.sees("Redirect URIs must match exactly", "Bring your own OAuth 2.0 app", "OAuth 2.0 client credentials")
    enter_app(admin, directory=seed.CONTOSO, client_id=seed.CONNECTIONS_APP, secret=seed.CONNECTIONS_SECRET)
    admin.type_in("Name", "Invoices inbox")
    here.press("Connect")
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example", "Active")
    assert (admin.forms, admin.inputs) == (1, 5)
    connection = Connection.objects.get()
    assert (connection.status, connection.capabilities) == ("active", ["mail.read"])
    assert AppRegistration.objects.get().is_ready
    # The expiration date is asked for later.
    here.open(f"/apps/{connection.app_registration_id}/")
    here.sees("Expires on (see Entra)")


def test_an_app_only_connection_goes_through_the_same_form(
    portal: Start, visitor: Come, sandbox: Control, alice: User
) -> None:
    here = visitor(portal(), "alice")
    admin = Counted(here)
    here.open("/connect/outlook/")
    enter_app(admin, directory="contoso.example", client_id=seed.ROBOTS_APP, secret=seed.ROBOTS_SECRET)
    admin.tick("OAuth 2.0 client credentials")
    assert not here.page.get_by_role("button", name="Someone else signs in").is_visible()
    admin.type_in("Name", "Nightly robot")
    here.press("Connect")
    here.sees("Nightly robot is connected.", "Active")
    assert (admin.forms, admin.inputs) == (1, 6)
    assert Tenant.objects.get().tid == seed.CONTOSO


def test_a_mistake_stores_nothing_and_keeps_what_was_typed(
    portal: Start, visitor: Come, sandbox: Control, alice: User
) -> None:
    here = visitor(portal(), "alice")
    admin = Counted(here)
    here.open("/connect/outlook/")
    enter_app(admin, directory=seed.CONTOSO, client_id=seed.CONNECTIONS_APP, secret="not~the~secret")
    admin.type_in("Name", "Invoices inbox")
    here.press("Connect")
    here.sees("AADSTS7000215")
    assert not Tenant.objects.exists()
    assert here.page.get_by_label("Name", exact=True).input_value() == "Invoices inbox"
    assert here.page.get_by_label("Client secret value").first.input_value() == ""
    here.type_in("Client secret value", seed.CONNECTIONS_SECRET)
    here.press("Connect")
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")


def test_a_member_connects_with_two_inputs_on_one_page(
    portal: Start, visitor: Come, sandbox: Control, bob: User
) -> None:
    factories.make_app_registration()
    here = visitor(portal(), "bob")
    member = Counted(here)
    here.open("/connect/")
    here.type_in("Search", "calendar")
    here.page.get_by_role("link", name="Microsoft Teams").wait_for(state="detached")
    here.follow("Microsoft Outlook 365", exact=False)
    assert not here.page.get_by_label("App registration", exact=True).is_visible()
    assert here.page.get_by_label("OAuth 2.0 client credentials").is_disabled()
    member.type_in("Name", "Invoices inbox")
    member.tick("Trigger on new mail in a shared mailbox")
    here.press("Connect")
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")
    assert (member.forms, member.inputs) == (1, 2)


def test_somebody_else_signs_in_by_a_link_from_the_form(
    portal: Start, visitor: Come, sandbox: Control, bob: User
) -> None:
    factories.make_app_registration()
    start = portal()
    here = visitor(start, "bob")
    member = Counted(here)
    here.open("/connect/outlook/")
    member.type_in("Name", "Ada's inbox")
    here.press("Someone else signs in", exact=False)
    here.sees("Sign-in link for Ada's inbox")
    link = here.page.get_by_label("Sign-in link").input_value()
    assert (member.forms, member.inputs) == (1, 1)

    holder = visitor(start)
    holder.page.goto(link)
    holder.press("Sign in to Microsoft")
    holder.signs_in_at_microsoft(factories.ADA)
    holder.accepts()
    holder.back_in_portal()
    assert Connection.objects.get().account_username == factories.ADA


def test_both_ways_in_work_at_another_server(
    portal: Start, visitor: Come, other: AnotherMicrosoft, alice: User, bob: User
) -> None:
    start = portal(MICROSOFT_SANDBOX_URL=other.url)
    here = visitor(start, "alice")
    admin = Counted(here)
    here.open("/connect/outlook/")
    enter_app(admin, directory=second_idp.DIRECTORY, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET)
    admin.type_in("Name", "Mary")
    here.press("Connect")
    here.sees("You're connected as mary@example.net")
    assert (admin.forms, admin.inputs) == (1, 5)

    member = Counted(visitor(start, "bob"))
    member.visitor.open("/connect/outlook/")
    member.type_in("Name", "Mary again")
    member.visitor.press("Connect")
    member.visitor.sees("You're connected as mary@example.net")
    assert (member.forms, member.inputs) == (1, 1)
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}


def test_permissions_are_added_later_with_the_difference_shown_and_one_sign_in(
    portal: Start, visitor: Come, sandbox: Control, bob: User
) -> None:
    factories.make_app_registration()
    here = visitor(portal(), "bob")
    here.open("/connect/outlook/")
    here.type_in("Name", "Front desk")
    here.press("Connect")
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")

    here.follow("Edit")
    here.tick("Change events in shared calendars")
    here.sees("Added", "Calendars.ReadWrite.Shared", "You can consent yourself.")
    here.press("Save and sign in again")
    here.accepts()
    here.sees("You're connected as ada@contoso.example")
    assert "Calendars.ReadWrite.Shared" in Connection.objects.get().granted


def test_permissions_are_added_later_at_another_server(
    portal: Start, visitor: Come, other: AnotherMicrosoft, bob: User
) -> None:
    tenant = factories.make_tenant(directory_id=second_idp.DIRECTORY, tid=second_idp.DIRECTORY)
    factories.make_app_registration(tenant=tenant, client_id=second_idp.CLIENT_ID, secret=second_idp.SECRET)
    here = visitor(portal(MICROSOFT_SANDBOX_URL=other.url), "bob")
    here.open("/connect/outlook/")
    here.type_in("Name", "Mary")
    here.press("Connect")
    here.sees("You're connected as mary@example.net")
    here.follow("Edit")
    here.tick("Send mail")
    here.sees("Added", "Mail.Send")
    here.press("Save and sign in again")
    here.sees("You're connected as mary@example.net")
    assert Connection.objects.get().capabilities == ["mail.read", "mail.send"]
