"""Every failed sign-in at Microsoft leads to a clear page with a next step."""

import pytest

from connections.models import Connection, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import MICROSOFT_SIGN_IN, Come, Start, Visitor


@pytest.fixture
def member(portal: Start, visitor: Come, bob: User) -> Visitor:
    """Bob, connecting his account through the app registration."""
    app = factories.make_app_registration()
    member = visitor(portal(), "bob")
    member.open(f"/connect/several/?app={app.pk}")
    member.type_in("Name", "Invoices")
    member.tick("Read mail")
    return member


def test_cancelled_at_microsoft(member: Visitor) -> None:
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.press("Cancel")
    member.back_in_portal()
    member.sees("Invoices wasn't connected", "You cancelled the sign-in at Microsoft")

    # The connection can still be completed.
    member.follow("Back to connection")
    member.sees("Not signed in yet")
    member.press("Sign in to Microsoft")
    member.signs_in_at_microsoft(factories.ADA)
    member.accepts()
    member.sees("You're connected as ada@contoso.example")


def test_an_admin_must_approve(member: Visitor, sandbox: Control) -> None:
    sandbox.set_directory(seed.CONTOSO, user_consent=False)
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.press("Return to the application without granting consent")
    member.back_in_portal()
    member.sees("Invoices wasn't connected", "What to do:")
    assert "admin" in member.page.locator("main").inner_text()
    assert Connection.objects.get().status in ("pending", "consent_needed")


def test_the_wrong_account_is_refused_and_the_right_one_is_named(
    portal: Start, visitor: Come, sandbox: Control, bob: User
) -> None:
    connection = factories.make_granted_connection(sandbox, owner=bob, status="reconnect_needed")
    member = visitor(portal(), "bob")
    member.sees("Sign-in required")
    member.press("Sign in again", exact=False)
    member.signs_in_at_microsoft("grace@contoso.example")
    member.accepts()
    member.back_in_portal()
    member.sees(
        "You signed in as grace@contoso.example", "this connection belongs to ada@contoso.example", "What to do:"
    )
    connection.refresh_from_db()
    assert (connection.status, connection.account_username) == ("reconnect_needed", factories.ADA)


def test_going_back_to_a_finished_sign_in(member: Visitor) -> None:
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.accepts()
    member.sees("You're connected as ada@contoso.example")
    callback = next(
        exchange.path
        for exchange in member.portal.watch.portal.exchanges
        if exchange.path.startswith("/auth/complete/")
    )
    member.open(callback)
    member.sees("This sign-in was already used")
    assert Connection.objects.get().status == "active"


def test_microsoft_is_down_when_the_browser_comes_back(member: Visitor, sandbox: Control) -> None:
    sandbox.weather("unavailable", where="token")
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.accepts()
    member.back_in_portal()
    member.sees("Invoices wasn't connected", "What to do:")
    assert "Microsoft" in member.page.locator("main").inner_text()
    assert Connection.objects.get().status == "pending"


def test_a_sign_in_to_the_portal_that_is_cancelled(portal: Start, visitor: Come) -> None:
    stranger = visitor(portal(**MICROSOFT_SIGN_IN))
    stranger.open("/connections/")
    stranger.press("Sign in with Microsoft")
    stranger.press("Cancel and go back to Portal sign-in")
    stranger.back_in_portal()
    stranger.sees("Not signed in", "The sign-in was cancelled", "What to do:")
    stranger.follow("Back to sign-in")
    stranger.sees("Sign in with Microsoft")


def test_an_error_that_microsoft_keeps_to_itself_is_explained(member: Visitor, sandbox: Control) -> None:
    sandbox.set_app(seed.CONNECTIONS_APP, redirect_uris=[])
    member.press("Connect")
    member.page.wait_for_url(f"{member.portal.microsoft_url}/**")
    shown = member.page.locator("body").inner_text()
    assert "AADSTS50011" in shown

    connection = Connection.objects.get()
    member.open(f"/connections/{connection.pk}/")
    member.sees("What did Microsoft show?")
    member.type_in("Code or text from Microsoft's page", shown)
    member.press("Explain error")
    member.sees("The portal's redirect URI isn't registered with the app.", "Assigned to: IT admins")
    # The box can be used again at once.
    member.type_in("Code or text from Microsoft's page", "AADSTS700016")
    member.press("Explain error")
    member.sees("The app wasn't found in this tenant.")
    assert member.path == f"/connections/{connection.pk}/"
