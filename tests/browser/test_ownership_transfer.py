"""Ownership transfer in the browser: an IT admin transfers a connection to a colleague with another account."""

from connections.models import AuditEvent, Connection, User
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import Come, Start

GRACE = "grace@contoso.example"


def test_a_transferred_connection_changes_owner_and_account_and_keeps_its_id(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    una = factories.make_person("una")
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    sandbox.grant_consent(factories.CLIENT_ID, scopes=["Mail.Read", "offline_access", "openid", "profile", "email"])
    connection = factories.make_connection(owner=bob, refresh_token=grant["refresh_tokens"][0])
    here = portal()

    admin = visitor(here, "alice")
    admin.open(f"/connections/{connection.pk}/")
    admin.follow("Change owner…")
    admin.sees("Impact", "The connection ID stays", "No token requests by API keys of Bob Member")
    admin.type_in("New owner", "una")
    admin.press("Transfer ownership")
    admin.sees(
        "Ownership of Invoices is transferred to Una",
        "Until then, the connection keeps working.",
        "The new owner needs to sign in.",
    )

    successor = visitor(here, "una")
    successor.sees("Sign in for Invoices")
    successor.follow("Sign in for Invoices")
    successor.press("Sign in for Invoices")
    successor.signs_in_at_microsoft(GRACE)
    successor.back_in_portal()
    successor.sees("You're connected as grace@contoso.example", "Signed in as grace@contoso.example")

    after = Connection.objects.get()
    assert (after.pk, after.owner, after.account_username, after.status) == (connection.pk, una, GRACE, "active")
    admin.open(f"/connections/{connection.pk}/")
    row = admin.page.locator("tr", has_text="completed the ownership transfer of Invoices")
    row.locator("summary", has_text="Details").click()
    admin.sees(f"Account: {factories.ADA} → {GRACE}")
    assert AuditEvent.objects.get(action="connection.hand_over_completed").changes["account"] == [factories.ADA, GRACE]

    assert visitor(here, "bob").open(f"/connections/{connection.pk}/") == 404


def test_all_connections_of_a_leaver_are_transferred_from_the_start_page(
    portal: Start, visitor: Come, alice: User, bob: User
) -> None:
    from django.utils import timezone

    from connections.services.people import offboarding

    factories.make_person("una")
    for name in ("Invoices", "Tickets"):
        factories.make_connection(owner=bob, name=name)
    offboarding.mark_departed(bob, how=User.Left.DIRECTORY, cause="The account was deleted.", now=timezone.now())
    admin = visitor(portal(), "alice", viewport={"width": 390, "height": 844})
    admin.sees("Needs your attention", "Bob Member left and owns connections", "2 connections")
    admin.follow("Transfer ownership")
    admin.page.get_by_label("New owner of selected connections").fill("una")
    admin.tick("Revoke access now")
    assert admin.sideways() == 0
    admin.press("Transfer ownership")
    admin.sees("2 connections are transferred", "No connections")
    assert set(Connection.objects.values_list("owner__username", "status")) == {("una", "reconnect_needed")}
    admin.open("/")
    assert not admin.page.get_by_text("has left").count()
