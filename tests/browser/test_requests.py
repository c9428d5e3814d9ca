"""Requesting admin consent after "Need admin approval", and learning the outcome."""

from connections.models import Connection, ConsentRequest, Delivery, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import Come, Start, Visitor

KATHERINE = "admin@contoso.example"  # administrator of the directory at Microsoft


def sent_away(member: Visitor, sandbox: Control) -> None:
    """Bob connects, sees Microsoft's "Need admin approval" and returns."""
    sandbox.set_directory(seed.CONTOSO, user_consent=False)
    sandbox.withdraw_consent(client_id=factories.CLIENT_ID, tenant=seed.CONTOSO)
    member.follow("Connect")
    member.type_in("Name", "Invoices inbox")
    member.tick("Read mail")
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.sees("Need admin approval")
    member.press("Return to the application without granting consent")
    member.back_in_portal()
    member.sees("Invoices inbox was not connected", "can only be granted by an administrator", "Mail.Read")


def asks(member: Visitor, why: str) -> str:
    """Fill in the reason on that page; returns the path of the request."""
    member.type_in("What do you need it for?", why)
    member.press("Ask an IT admin")
    member.sees("The IT admins have been asked.", "Waits for an IT admin", why)
    return member.path


def test_a_member_requests_consent_an_it_admin_grants_it_and_a_token_proves_it(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    here = portal()
    factories.make_app_registration()
    member, admin = visitor(here, "bob"), visitor(here, "alice")
    sent_away(member, sandbox)
    request = asks(member, "Suppliers send their invoices there.")

    admin.open("/")
    admin.sees("What needs attention", "What waits for you", "Bob Member")
    admin.follow("Consent for Invoices inbox")
    admin.sees("Suppliers send their invoices there.", "Read mail", "What granting it means")
    admin.press("Approve and grant it at Microsoft")
    admin.signs_in_at_microsoft(KATHERINE)
    admin.accepts()
    admin.back_in_portal()
    admin.sees("Thank you.", "Granted, not yet seen in a token")
    assert Delivery.objects.filter(email="bob@example.org", subject="Consent is granted: Invoices inbox").exists()

    member.open("/")
    member.sees("What you asked for", "Microsoft says that consent is granted.")
    member.press("Sign in now", exact=False)
    member.page.get_by_role("button", name="Ada Lovelace").click()
    member.back_in_portal()
    member.sees("Invoices inbox is connected as ada@contoso.example", "Active")
    assert Connection.objects.get().status == Connection.Status.ACTIVE
    member.open(request)
    member.sees("Granted and verified", "The connection's token carries what was asked for")
    assert ConsentRequest.objects.get().state == ConsentRequest.State.VERIFIED
    admin.open(request)
    admin.sees("Consent request: verified")


def test_a_declined_member_reads_why(portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User) -> None:
    here = portal()
    factories.make_app_registration()
    member, admin = visitor(here, "bob"), visitor(here, "alice")
    sent_away(member, sandbox)
    request = asks(member, "Just trying it out.")
    admin.open("/requests/?waits=it")
    admin.follow("Invoices inbox")
    admin.type_in("Reason", "Please use the shared archive instead.")
    admin.press("Decline")
    admin.sees("Declined. Bob Member is told your reason.")
    for page in ("/", request):
        member.open(page)
        member.sees("Declined", "Please use the shared archive instead.")
    assert Delivery.objects.filter(email="bob@example.org", subject="Declined: consent for Invoices inbox").exists()
