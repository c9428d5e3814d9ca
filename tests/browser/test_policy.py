"""Policy and approvals in the browser: rules, their impact, and a request to an IT admin."""

from connections.models import AppRegistration, Approval, Connection, User
from connections.services.governance import policy
from tests import factories
from tests.browser.browser_users import Come, Start


def test_a_new_rule_shows_its_impact_and_a_member_requests_approval(
    portal: Start, visitor: Come, alice: User, bob: User, app: AppRegistration
) -> None:
    here = portal()
    factories.make_connection(
        owner=bob, name="Calendar", capabilities=["calendar.events"], granted_scopes="Calendars.Read"
    )
    admin = visitor(here, "alice")
    admin.follow("Policy")
    admin.page.get_by_role("heading", name="Outlook").click()
    admin.page.get_by_label("Send mail", exact=True).select_option("Approval required")
    admin.type_in("Permissions not allowed", "Calendars.*")
    admin.press("Save")
    admin.sees("Policy impact", "1 connection", "Calendars.Read isn't allowed by the organisation's policy")
    admin.press("Back to policy")
    admin.sees("Permissions not allowed")
    admin.press("Preview impact")
    admin.tick("Disable them now")
    admin.press("Save policy")
    admin.sees("Saved. 1 connection disabled.")
    assert Connection.objects.get(name="Calendar").status == "disabled"
    assert str(policy.stored_policy().rules.of_capability("mail.send")) == "approval"

    member = visitor(here, "bob")
    member.open("/policy/")
    member.sees("Approval required", "permissions that begin with Calendars.")
    member.open(f"/connect/several/?app={app.pk}")
    assert member.page.get_by_label("Read calendar events").is_disabled()
    member.type_in("Name", "Answers")
    member.tick("Send mail")
    member.type_in("Justification", "To answer customers.")
    member.press("Connect")
    member.sees("Awaiting approval")

    admin.follow("Approvals", exact=False)
    admin.follow("Answers")
    admin.sees("To answer customers.", "Mail.Send")
    admin.press("Approve")
    admin.sees("Answers is approved.")
    assert Approval.objects.get().state == "approved"

    member.open("/")
    member.sees("Your approval requests")
    member.press("Sign in", exact=False)
    member.signs_in_at_microsoft(factories.ADA)
    member.accepts()
    member.sees("You're connected as ada@contoso.example")
