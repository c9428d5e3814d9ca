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
    member.follow("New connection")
    member.follow("Microsoft Outlook 365", exact=False)
    member.type_in("Name", "Invoices inbox")
    member.tick("Read mail")
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.sees("Need admin approval")
    member.press("Return to the application without granting consent")
    member.back_in_portal()
    member.sees(
        "Invoices inbox wasn't connected", "Only an administrator can grant the requested permissions", "Mail.Read"
    )


def asks(member: Visitor, why: str) -> str:
    """Fill in the reason on that page; returns the path of the request."""
    member.type_in("Justification", why)
    member.press("Request admin consent")
    member.sees("Request sent.", "Awaiting IT admin", why)
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
    admin.sees("Overview", "Needs your attention", "Bob Member")
    admin.follow("Consent request: Invoices inbox")
    admin.sees("Suppliers send their invoices there.", "Read mail", "Effect of granting consent")
    admin.press("Approve and grant consent")
    admin.signs_in_at_microsoft(KATHERINE)
    admin.accepts()
    admin.back_in_portal()
    admin.sees("Microsoft reports that consent is granted.", "Reported, checking")
    assert Delivery.objects.filter(email="bob@example.org", subject="Consent reported: Invoices inbox").exists()

    member.open("/")
    member.sees("Your consent requests", "An administrator reported that consent is granted.")
    member.press("Sign in now", exact=False)
    member.page.get_by_role("button", name="Ada Lovelace").click()
    member.back_in_portal()
    member.sees("You're connected as ada@contoso.example", "Active")
    assert Connection.objects.get().status == Connection.Status.ACTIVE
    member.open(request)
    member.sees("Granted and verified", "Verified in the connection's token")
    assert ConsentRequest.objects.get().state == ConsentRequest.State.VERIFIED
    admin.open(request)
    admin.sees("verified “")


def test_a_declined_member_reads_why(portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User) -> None:
    here = portal()
    factories.make_app_registration()
    member, admin = visitor(here, "bob"), visitor(here, "alice")
    sent_away(member, sandbox)
    request = asks(member, "Just trying it out.")
    admin.open("/requests/?show=to_decide")
    admin.follow("Invoices inbox")
    admin.type_in("Reason", "Please use the shared archive instead.")
    admin.press("Decline")
    admin.sees("Declined. We'll email your reason to Bob Member.")
    for page in ("/", request):
        member.open(page)
        member.sees("Declined", "Please use the shared archive instead.")
    assert Delivery.objects.filter(email="bob@example.org", subject="Declined: consent for Invoices inbox").exists()


def test_an_outside_administrators_consent_reports_back(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    here = portal()
    factories.make_app_registration()
    member, admin, outsider = visitor(here, "bob"), visitor(here, "alice"), visitor(here)
    sent_away(member, sandbox)
    request = asks(member, "Suppliers send their invoices there.")
    admin.open(request)
    admin.press("Approve and get link")
    link = admin.page.get_by_label("Consent link").first.input_value()

    outsider.open(link)
    outsider.signs_in_at_microsoft(KATHERINE)
    outsider.accepts()
    outsider.back_in_portal()
    outsider.sees("Reported, checking", "The result is recorded.")
    assert "Alice" not in outsider.page.locator("body").inner_text()

    for person in (member, admin):
        person.open(request)
        person.sees("Reported, checking")
    assert Delivery.objects.filter(email="bob@example.org", subject="Consent reported: Invoices inbox").exists()
    assert Delivery.objects.filter(email="alice@example.org", subject__startswith="Consent reported:").exists()
