"""One app registration in two tenants, and a shared mailbox of a directory that only the sign-in names."""

from connections.models import AppConsent, Connection, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import Come, Start


def test_an_it_admin_adds_a_tenant_its_administrator_consents_and_a_robot_connects(
    portal: Start, visitor: Come, sandbox: Control, alice: User
) -> None:
    here = portal()
    app = factories.make_app_registration(
        name="Multi", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience="multi"
    )
    admin = visitor(here, "alice")
    admin.open(f"/apps/{app.pk}/")
    admin.follow("Add a tenant")
    admin.type_in("Directory (tenant) ID", "fabrikam.example")
    admin.type_in("Name", "Fabrikam")
    admin.press("Add tenant and get consent link")
    admin.sees("Fabrikam is added.", "Awaiting administrator", "in Fabrikam")
    admin.follow("open it yourself")
    admin.signs_in_at_microsoft("admin@fabrikam.example")
    admin.accepts()
    admin.back_in_portal()
    assert AppConsent.objects.get(tenant__name="Fabrikam").granted_roles == "Mail.Read User.Read.All"

    admin.open(f"/apps/{app.pk}/tenants/")
    admin.press("Test Fabrikam")
    admin.sees("Microsoft accepts Multi in Fabrikam.", "Mail.Read", "In use")
    consent = AppConsent.objects.get(tenant__name="Fabrikam")
    admin.page.locator(f'a[href$="&tenant={consent.tenant_id}"]').click()
    admin.follow("Several services", exact=False)
    admin.sees("Multi, Fabrikam")
    admin.tick("OAuth 2.0 client credentials")
    admin.type_in("Name", "Robot in Fabrikam")
    admin.tick("Read mail")
    admin.press("Connect")
    admin.sees("Robot in Fabrikam is connected.", "Multi, Fabrikam")
    assert Connection.objects.get().app_consent == consent


def test_a_shared_mailbox_through_common_is_attached_after_one_click_of_an_it_admin(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    here = portal()
    factories.make_multitenant_app(name="Anybody", directory_id="common")
    member, admin = visitor(here, "bob"), visitor(here, "alice")
    member.follow("New connection")
    member.follow("Several services", exact=False)
    member.type_in("Name", "Front desk")
    member.tick("Read shared mailboxes")
    member.type_in("Shared mailboxes (optional)", "desk@fabrikam.example")
    member.press("Connect")
    member.signs_in_at_microsoft("barbara@fabrikam.example")
    member.accepts()
    member.back_in_portal()
    member.sees("You're connected as barbara@fabrikam.example.", "desk@fabrikam.example", "We've asked them.")

    admin.open("/")
    admin.follow("Add fabrikam.example as a tenant?")
    admin.press("Add tenant")
    admin.sees("fabrikam.example is added.")
    connection = Connection.objects.get()
    assert connection.mailbox_accesses.get().mailbox.address == "desk@fabrikam.example"
    member.open(f"/connections/{connection.pk}/")
    member.press("Test desk@fabrikam.example")
    member.sees("desk@fabrikam.example", "Reachable")
