"""A member gives a connection a stable name, and points it elsewhere."""

from connections.models import Connection, ConnectionReference, User
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import Come, Start


def test_a_member_creates_a_reference_points_it_elsewhere_and_sets_a_default(
    portal: Start, visitor: Come, sandbox: Control, bob: User
) -> None:
    old = factories.make_granted_connection(sandbox, owner=bob, name="Old mailbox")
    new = factories.make_granted_connection(sandbox, owner=bob, name="New mailbox")
    member = visitor(portal(), "bob")
    member.open(f"/connections/{old.pk}/")
    member.follow("Create reference")
    member.type_in("Name", "invoices-inbox")
    member.press("Create reference")
    member.sees("Reference invoices-inbox was created.", "Old mailbox", "No token requests within 30 days")

    member.type_in("Connection", "New mailbox")
    member.press("Review change")
    member.sees("No API key used the reference within 30 days.")
    member.press("Change connection")
    member.sees("invoices-inbox now points at New mailbox.")
    assert ConnectionReference.objects.get().connection == Connection.objects.get(pk=new.pk)

    member.open(f"/connections/{new.pk}/")
    member.sees("invoices-inbox", "Not your default for Outlook")
    member.press("Set as default", exact=False)
    member.sees("Your default for Outlook", "default:outlook")
    member.open("/references/")
    member.sees("invoices-inbox", "default:outlook")
    assert member.sideways() == 0
