"""Complete user journeys in the browser."""

from datetime import timedelta

from django.utils import timezone

from connections.models import AppRegistration, AuditEvent, Connection, MailboxAccess, Tenant, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.browser.browser_users import MICROSOFT_SIGN_IN, Come, Start, until

KATHERINE = "admin@contoso.example"  # administrator of the directory at Microsoft
NEXT_YEAR = (timezone.now() + timedelta(days=365)).date().isoformat()


def make_due(connection: Connection) -> None:
    Connection.objects.filter(pk=connection.pk).update(refresh_after=timezone.now() - timedelta(seconds=1))


def now_is(connection: Connection, **columns: object) -> bool:
    """Whether the row has these values by now."""
    return Connection.objects.filter(pk=connection.pk, **columns).exists()


def test_from_an_empty_portal_to_a_connection_that_is_refreshed_flagged_and_fixed(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    here = portal(alive=True)

    # Alice registers the tenant and the app registration, and grants admin consent.
    admin = visitor(here, "alice")
    admin.sees("Set up your first connection")
    admin.open("/tenants/add/")
    admin.type_in("Name", "Contoso")
    admin.page.get_by_label("Environment").select_option("sandbox")
    admin.type_in("Directory (tenant) ID", f"  {seed.CONTOSO} ")
    admin.press("Add tenant")
    assert Tenant.objects.get().directory_id == seed.CONTOSO

    admin.open("/apps/add/")
    admin.page.get_by_label("Tenant", exact=True).select_option(label="Contoso")
    admin.type_in("Name", "Contoso Connections")
    admin.type_in("Application (client) ID", seed.CONNECTIONS_APP)
    admin.tick("App-only connections")
    admin.type_in("Client secret value", seed.CONNECTIONS_SECRET)
    admin.type_in("Expires", NEXT_YEAR)
    admin.press("Test and save")
    admin.sees("Contoso Connections", "Ready")
    assert AppRegistration.objects.get().is_ready

    admin.press("Grant consent in Microsoft Entra")
    admin.signs_in_at_microsoft(KATHERINE)
    admin.accepts()
    admin.back_in_portal()
    admin.sees("Admin consent for Contoso Connections")

    # Bob connects his account with a shared mailbox. He needs no additional consent.
    member = visitor(here, "bob")
    member.follow("New connection")
    member.follow("Microsoft Outlook 365", exact=False)
    member.type_in("Name", "Invoices inbox")
    member.tick("Read mail")
    member.tick("Trigger on new mail in a shared mailbox")
    member.type_in("Shared mailboxes (optional)", "support@contoso.example")
    member.press("Connect")
    member.signs_in_at_microsoft(factories.ADA)
    member.back_in_portal()
    member.sees("You're connected as ada@contoso.example", "support@contoso.example", "Reachable")
    connection = Connection.objects.get()
    assert (connection.status, connection.owner) == ("active", bob)
    assert MailboxAccess.objects.get().state == "reachable"

    # When the connection is due, the portal refreshes it.
    version = connection.token_version
    make_due(connection)
    until(lambda: now_is(connection, token_version__gt=version, status="active"))

    # Ada's sessions are revoked. The running portal notices, explains it, and emails Bob.
    sandbox.revoke_sessions(upn=factories.ADA)
    make_due(connection)
    until(lambda: now_is(connection, status="reconnect_needed"))
    assert factories.reloaded(connection).status_code == "AADSTS50173"
    member.open("/")
    member.sees("Sign-in required", connection.status_cause)
    admin.open("/")
    admin.sees("Overview", "ada@contoso.example needs to sign in again", connection.status_cause)

    # The incident's page has the button that resolves it.
    member.open("/incidents/")
    member.follow("ada@contoso.example needs to sign in again")
    member.sees("Cause", "AADSTS50173", "Your action is required.", "Impact")
    incident = member.path
    member.press("Sign in again as ada@contoso.example")
    member.page.get_by_label("Password").fill("sandbox-ada")
    member.press("Sign in")
    member.back_in_portal()
    member.sees("Active")
    assert member.path == f"/connections/{connection.pk}/"
    assert now_is(connection, status="active", token_version__gt=connection.token_version)
    assert Connection.objects.count() == 1
    member.open("/")
    member.sees("All connections work")
    member.open(incident)
    member.sees("Resolved")

    kinds = set(here.watch.secrets().values())
    assert kinds >= {"code", "code_verifier", "client_secret", "access_token", "refresh_token", "id_token"}


def test_an_app_only_connection_uses_a_certificate_made_by_the_portal(
    portal: Start, visitor: Come, sandbox: Control, alice: User
) -> None:
    here = portal()
    factories.make_app_registration(
        name="Contoso Robots",
        client_id=factories.ROBOTS_CLIENT_ID,
        secret=None,
        verified_at=None,
        allows_delegated=False,
    )
    admin = visitor(here, "alice")
    admin.open("/apps/")
    admin.follow("Contoso Robots")
    admin.follow("Add credential")
    admin.tick("Generate certificate")
    admin.press("Test and save")
    admin.sees("Upload the public part to Entra")

    with admin.page.expect_download() as download:
        admin.follow(".pem")
    public = download.value.path().read_text()
    assert "PRIVATE" not in public
    sandbox.add_certificate(factories.ROBOTS_CLIENT_ID, public)
    admin.press("Test certificate")
    admin.sees("Accepted", "Ready")

    admin.open("/connections/")
    admin.follow("New connection")
    admin.follow("Microsoft Outlook 365", exact=False)
    admin.type_in("Name", "Nightly robot")
    admin.tick("Read mail")
    admin.press("Connect")
    admin.sees("Nightly robot is connected.", "Active")
    connection = Connection.objects.get()
    assert (connection.status, connection.is_delegated) == ("active", False)
    assert connection.granted >= {"Mail.Read", "User.Read.All"}

    assert set(here.watch.secrets().values()) >= {"private_key", "client_assertion", "access_token"}


def test_an_expired_secret_flags_the_app_registration_and_a_new_one_fixes_it(
    portal: Start, visitor: Come, sandbox: Control, alice: User, bob: User
) -> None:
    here = portal(alive=True)
    granted = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["offline_access", "Mail.Read"], count=2)
    first, second = (
        factories.make_connection(name=name, owner=bob, refresh_token=token)
        for name, token in zip(("Invoices", "Calendar"), granted["refresh_tokens"], strict=True)
    )

    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    make_due(first)
    app = first.app_registration
    until(lambda: AppRegistration.objects.filter(pk=app.pk, rejected_at__isnull=False).exists())
    assert set(Connection.objects.values_list("status", flat=True)) == {"active"}
    assert not AuditEvent.objects.filter(action="connection.flagged").exists()

    member = visitor(here, "bob")
    member.sees("App credential rejected", "Assigned to: IT admins")
    admin = visitor(here, "alice")
    admin.sees("Overview", "Microsoft rejects Contoso Connections", "expired")

    # Go from the start page to the incident, and use its button to resolve it.
    admin.follow("Microsoft rejects Contoso Connections")
    admin.sees("Affected connections", "Invoices", "Calendar", "Assigned to: IT admins")
    incident = admin.path
    admin.follow("Add credential")
    admin.type_in("Client secret value", sandbox.add_secret(factories.CLIENT_ID)["value"])
    admin.type_in("Expires", NEXT_YEAR)
    admin.press("Test and save")
    admin.sees("Ready")
    admin.open(incident)
    admin.sees("Resolved")
    member.open("/")
    member.sees("All connections work")

    # The connections use the new credential automatically when they are refreshed.
    for connection in (first, second):
        make_due(connection)
        until(lambda kept=connection: now_is(kept, token_version__gt=1, status="active"))  # type: ignore[misc]


def test_a_person_signs_in_with_microsoft_and_gets_the_role_of_the_directory(portal: Start, visitor: Come) -> None:
    here = portal(**MICROSOFT_SIGN_IN)
    katherine = visitor(here)
    katherine.open("/")
    katherine.press("Sign in with Microsoft")
    katherine.signs_in_at_microsoft(KATHERINE)
    katherine.back_in_portal()
    katherine.sees("Set up your first connection", "IT admin")
    assert set(here.watch.secrets().values()) >= {"id_token", "access_token", "code"}
