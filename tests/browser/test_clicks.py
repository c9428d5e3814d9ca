"""How many clicks the most frequent jobs take, from the home page or from the incident. Typing is not counted."""

from dataclasses import dataclass

from connections.models import AppRegistration, Connection, Incident, Share, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import Come, Start, Visitor


@dataclass
class Clicks:
    """A visitor whose clicks in the portal are counted."""

    visitor: Visitor
    count: int = 0

    def follow(self, name: str, *, exact: bool = True) -> None:
        self.count += 1
        self.visitor.follow(name, exact=exact)

    def press(self, name: str) -> None:
        self.count += 1
        self.visitor.press(name)

    def tick(self, label: str) -> None:
        self.count += 1
        self.visitor.tick(label)


def test_jobs_of_an_it_admin(portal: Start, visitor: Come, sandbox: Control, alice: User) -> None:
    here = visitor(portal(), "alice")

    # A tenant, an app registration and a connection, from the home page of an empty portal.
    admin = Clicks(here)
    admin.follow("New connection", exact=False)
    admin.follow("Microsoft Outlook 365", exact=False)
    here.type_in("Application (client) ID", seed.CONNECTIONS_APP)
    here.type_in("Directory (tenant) ID", seed.CONTOSO)
    here.page.get_by_label("Environment").select_option("sandbox")
    for label, value in (("Client secret value", seed.CONNECTIONS_SECRET), ("Name", "Invoices inbox")):
        here.page.get_by_label(label).filter(visible=True).first.fill(value)
    admin.press("Connect")
    assert admin.count <= 3
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")
    assert Connection.objects.get().status == Connection.Status.ACTIVE

    # An expired client secret, from its incident.
    app = AppRegistration.objects.get()
    sandbox.expire_secret(app.client_id, seed.CONNECTIONS_SECRET_ID)
    here.open(f"/apps/{app.pk}/")
    here.press("Test connection")
    here.sees("expired")
    incident = Incident.objects.get()
    here.open(f"/incidents/{incident.pk}/")
    admin = Clicks(here)
    admin.follow("Add credential")
    here.type_in("Client secret value", sandbox.add_secret(app.client_id)["value"])
    here.type_in("Expires", "2099-01-01")
    admin.press("Test and save")
    assert admin.count <= 2
    here.sees("Ready")
    incident.refresh_from_db()
    assert incident.closed_at is not None


def test_jobs_of_a_member(portal: Start, visitor: Come, sandbox: Control, bob: User) -> None:
    connection = factories.make_connection(owner=bob, capabilities=["mail.read"], granted_scopes="Mail.Read")
    factories.make_mailbox_access(connection, factories.make_mailbox(tenant=connection.tenant))
    for name in ("una", "tina"):
        factories.make_person(name)
    here = visitor(portal(), "bob")

    # Share a connection with two people.
    member = Clicks(here)
    member.follow("Invoices")
    member.follow("Share")
    here.type_in("Share with", "una")
    here.page.get_by_label("More recipients").fill("tina\n")
    member.tick("I understand what I'm sharing")
    member.press("Share")
    assert member.count <= 5
    here.sees("Invoices is shared with")
    assert Share.objects.filter(ended_at=None).count() == 2

    # The permission for a shared mailbox is missing.
    here.open("/")
    member = Clicks(here)
    member.follow("Invoices")
    member.press("Add permission and sign in")
    assert member.count <= 2
    here.signs_in_at_microsoft(factories.ADA)
    here.accepts()
    here.sees("You're connected as ada@contoso.example")
    connection.refresh_from_db()
    assert "Mail.Read.Shared" in connection.granted
    assert connection.capabilities == ["mail.read", "shared_mailbox.read"]
