"""One multitenant app registration in three directories: one secret, three consents."""

from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.utils import timezone

from connections.errors import InUse, InvalidInput
from connections.models import (
    AppConsent,
    AppCredential,
    AppRegistration,
    AuditEvent,
    Connection,
    Incident,
    SharedMailbox,
    Tenant,
    User,
)
from connections.services.connections import app_only, directories
from connections.services.governance import policy
from connections.services.policy.rules import Rules
from connections.services.registry import app_consents, app_registrations, credentials
from connections.services.tokens import scheduler
from connections.services.tokens.apply_results import Summary
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import Program
from tests.flows.conftest import Meet
from tests.views.pages import assert_shows

OTHERS = (("Fabrikam", seed.FABRIKAM), ("Litware", seed.LITWARE))
ROLES = ["Mail.Read", "User.Read.All"]


@pytest.fixture
def app(alice: User) -> AppRegistration:
    """The sandbox's multitenant application, registered in Contoso."""
    return factories.make_app_registration(
        name="Multi", client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience="multi"
    )


@pytest.fixture
def everywhere(app: AppRegistration, alice: User, sandbox: Control) -> list[Connection]:
    """An app-only connection in each of the three directories."""
    tenants = [app.tenant]
    for name, directory in OTHERS:
        tenant = factories.make_tenant(name=name, directory_id=directory, tid=directory)
        app_consents.add(app, tenant, actor=alice)
        tenants.append(tenant)
    created = []
    for tenant in tenants:
        sandbox.grant_consent(seed.MULTI_APP, tenant=tenant.tid, roles=ROLES)
        options: dict[str, Any] = {"chosen": ["mail.read"], "actor": alice, "now": timezone.now(), "tenant": tenant}
        created.append(app_only.connect(app, name=f"Robot in {tenant}", **options))
    return created


def sweep_due(now: Any) -> Summary:
    Connection.objects.update(refresh_after=now)
    return scheduler.sweep(now=now)


def tid_of(connection: Connection) -> str:
    token = str(Connection.objects.get(pk=connection.pk).access_token)
    return str(jwt.decode(token, options={"verify_signature": False})["tid"])


def test_app_only_in_three_tenants_has_three_consents_one_secret_and_one_rotation(
    everywhere: list[Connection], app: AppRegistration, alice: User, sandbox: Control
) -> None:
    assert [connection.status for connection in everywhere] == ["active"] * 3
    assert {tid_of(connection) for connection in everywhere} == {seed.CONTOSO, seed.FABRIKAM, seed.LITWARE}
    assert AppConsent.objects.filter(app_registration=app, granted_roles=" ".join(ROLES)).count() == 3
    assert AppCredential.objects.count() == 1

    new = sandbox.add_secret(seed.MULTI_APP)
    credentials.add(app, credentials.NewSecret(new["value"], timezone.now() + timedelta(days=300), "next"), actor=alice)
    sandbox.expire_secret(seed.MULTI_APP, seed.MULTI_SECRET_ID)
    assert sweep_due(timezone.now()).renewed == 3
    assert {tid_of(connection) for connection in everywhere} == {seed.CONTOSO, seed.FABRIKAM, seed.LITWARE}


def test_a_dead_secret_costs_one_request_and_is_one_incident(
    everywhere: list[Connection], app: AppRegistration, sandbox: Control
) -> None:
    sandbox.expire_secret(seed.MULTI_APP, seed.MULTI_SECRET_ID)
    sandbox.clear_calls()
    now = timezone.now()
    assert sweep_due(now).waiting == 2
    assert sandbox.calls(limit=0)["by_endpoint"]["token"] == 1
    assert factories.reloaded(app).rejected_code == "AADSTS7000222"
    assert [incident.title for incident in Incident.objects.all()] == ["Microsoft rejects Multi"]


def test_what_is_wrong_in_one_tenant_stops_only_its_connections(
    everywhere: list[Connection], app: AppRegistration, alice: User, sandbox: Control, signed_in: Any
) -> None:
    sandbox.set_app(seed.MULTI_APP, disabled_in=[seed.FABRIKAM])
    now = timezone.now()
    assert sweep_due(now).renewed == 2
    rejected = AppConsent.objects.get(rejected_at__isnull=False)
    assert (rejected.tenant.name, rejected.rejected_code) == ("Fabrikam", "AADSTS7000112")
    assert factories.reloaded(app).rejected_at is None
    incident = Incident.objects.get()
    assert (incident.title, incident.tenant) == ("Microsoft rejects Multi in Fabrikam", rejected.tenant)
    assert [row.connection_name for row in incident.affected.all()] == ["Robot in Fabrikam"]
    page = signed_in(alice).get(f"/connections/{everywhere[1].pk}/").content.decode()
    assert_shows(page, "App credential rejected", "Multi in Fabrikam")

    # It waits, is tried once a minute, and works again by itself.
    assert sweep_due(now + timedelta(seconds=30)).claimed == 2
    sandbox.set_app(seed.MULTI_APP, disabled_in=[])
    assert sweep_due(now + timedelta(seconds=90)).renewed == 3
    assert not AppConsent.objects.filter(rejected_at__isnull=False).exists()
    assert factories.reloaded(incident).closed_at is not None
    actions = AuditEvent.objects.filter(action__startswith="app_registration.tenant_").order_by("pk")
    assert [event.action.rpartition("_")[2] for event in actions] == ["added", "added", "rejected", "healed"]


def test_the_first_tenant_does_not_speak_for_the_others(
    everywhere: list[Connection], app: AppRegistration, sandbox: Control
) -> None:
    sandbox.set_app(seed.MULTI_APP, disabled_in=[seed.CONTOSO])
    assert sweep_due(timezone.now()).renewed == 2
    assert factories.reloaded(app).rejected_at is None
    assert AppConsent.objects.get(rejected_at__isnull=False).tenant.name == "Contoso"


def test_throttling_pauses_one_tenant(everywhere: list[Connection], sandbox: Control) -> None:
    now = timezone.now()
    AppConsent.objects.filter(tenant__name="Litware").update(paused_until=now + timedelta(minutes=5))
    assert sweep_due(now).renewed == 2


def test_a_tenant_is_added_on_the_page_and_its_consent_is_verified(
    app: AppRegistration, alice: User, bob: User, sandbox: Control, person: Meet
) -> None:
    admin = person(alice)
    page = admin.get(f"/apps/{app.pk}/").content.decode()
    assert_shows(page, "Add a tenant")
    added = admin.post(f"/apps/{app.pk}/tenants/", directory_id="fabrikam.example", name="Fabrikam")
    assert (added.status_code, added["Location"]) == (302, f"/apps/{app.pk}/consent/")
    tenant = Tenant.objects.get(name="Fabrikam")
    assert tenant.tid == seed.FABRIKAM
    assert f"/{seed.FABRIKAM}/" in admin.get(added["Location"]).content.decode()

    consent = app.consents.get(tenant=tenant)
    answer = admin.portal.post(f"/apps/{app.pk}/tenants/{consent.pk}/check/", follow=True)
    assert_shows(answer.content.decode(), "The app was never added to this tenant", "Rejected by Microsoft")
    sandbox.grant_consent(seed.MULTI_APP, tenant=seed.FABRIKAM, roles=ROLES)
    answer = admin.portal.post(f"/apps/{app.pk}/tenants/{consent.pk}/check/", follow=True)
    assert_shows(answer.content.decode(), "In use", "Mail.Read, User.Read.All")

    admin.post(
        f"/connect/several/?app={app.pk}&tenant={tenant.pk}",
        kind="client_credentials", name="Nightly robot", chosen=["mail.read"], tenant=tenant.pk,
    )  # fmt: skip
    connection = Connection.objects.get()
    assert (connection.status, connection.tenant) == ("active", tenant)
    with pytest.raises(InUse):
        app_consents.remove(consent, actor=alice, now=timezone.now())
    with pytest.raises(InUse):
        app_registrations.change(
            app, name="Multi", audience="single", allows_delegated=True, allows_app_only=True,
            default_capabilities=[], actor=alice,
        )  # fmt: skip


def test_a_tenant_that_was_not_added_cannot_be_used(app: AppRegistration, alice: User, bob: User, person: Meet) -> None:
    other = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    data = {"kind": "authorization_code", "name": "Mine", "chosen": ["mail.read"], "tenant": other.pk}
    assert person(bob).post(f"/connect/several/?app={app.pk}", **data).status_code == 404
    with pytest.raises(InvalidInput):
        app_only.connect(app, name="Robot", chosen=["mail.read"], actor=alice, now=timezone.now(), tenant=other)
    assert not Connection.objects.exists()


# --- "common" and shared mailboxes ----------------------------------------------------------------


@pytest.fixture
def common(alice: User) -> AppRegistration:
    return factories.make_multitenant_app(name="Anybody", directory_id="common")


def start(member: Any, app: AppRegistration, mailbox: str, name: str = "Desk") -> Any:
    data = {"kind": "authorization_code", "name": name, "chosen": ["shared_mailbox.read"], "mailboxes": mailbox}
    return member.post(f"/connect/several/?app={app.pk}", **data)


def test_accounts_of_three_directories_connect_through_one_app(
    common: AppRegistration, alice: User, bob: User, person: Meet
) -> None:
    policy.change(None, Rules(register_tenants=True), actor=alice, now=timezone.now())
    for upn, mailbox in (
        (factories.ADA, "support@contoso.example"),
        ("barbara@fabrikam.example", "desk@fabrikam.example"),
        ("frances@litware.example", "desk@litware.example"),
    ):
        member = person(bob)
        begun = start(member, common, mailbox, name=upn)
        assert Connection.objects.get(name=upn).pending_mailboxes == [mailbox]
        member.connect(begun, upn)

    created = list(Connection.objects.order_by("pk"))
    assert [connection.tenant.name for connection in created] == [
        "contoso.example",
        "fabrikam.example",
        "litware.example",
    ]
    assert [connection.tenant.tid for connection in created] == [seed.CONTOSO, seed.FABRIKAM, seed.LITWARE]
    assert [connection.app_consent.tenant for connection in created] == [connection.tenant for connection in created]
    assert [connection.mailbox_accesses.get().state for connection in created] == ["reachable"] * 3
    assert not Connection.objects.exclude(pending_mailboxes=[]).exists()
    assert AppCredential.objects.count() == 1
    assert sweep_due(timezone.now()).renewed == 3


def test_a_registered_tenant_is_found_without_any_policy(common: AppRegistration, bob: User, person: Meet) -> None:
    contoso = factories.make_tenant()
    known = factories.make_mailbox(tenant=contoso)
    member = person(bob)
    member.connect(start(member, common, "Support@contoso.example"), factories.ADA)
    connection = Connection.objects.get()
    assert connection.tenant == contoso
    assert connection.mailbox_accesses.get().mailbox == known
    assert SharedMailbox.objects.count() == 1


def test_otherwise_an_it_admin_is_asked_and_adds_it_with_one_click(
    common: AppRegistration, alice: User, bob: User, person: Meet, signed_in: Any
) -> None:
    member = person(bob)
    member.connect(start(member, common, "desk@fabrikam.example"), "barbara@fabrikam.example")
    connection = Connection.objects.get()
    assert (connection.status, connection.tenant.directory_id) == ("active", "common")
    page = member.get(f"/connections/{connection.pk}/").content.decode()
    assert_shows(page, "desk@fabrikam.example", "An IT admin needs to add")

    incident = Incident.objects.get()
    assert (incident.kind, incident.title) == ("tenant", "Add fabrikam.example as a tenant?")
    assert member.post(f"/incidents/{incident.pk}/tenant/").status_code == 403
    admin = signed_in(alice)
    assert_shows(admin.get(f"/incidents/{incident.pk}/").content.decode(), "Add tenant")
    for _ in range(2):
        admin.post(f"/incidents/{incident.pk}/tenant/")
    assert factories.reloaded(connection).tenant.tid == seed.FABRIKAM
    assert connection.pending_mailboxes == []
    assert connection.mailbox_accesses.get().mailbox.address == "desk@fabrikam.example"
    assert factories.reloaded(incident).closed_at is not None
    assert Tenant.objects.filter(tid=seed.FABRIKAM).count() == 1


def test_a_tenant_added_by_hand_is_noticed(common: AppRegistration, bob: User, person: Meet) -> None:
    member = person(bob)
    member.connect(start(member, common, "desk@fabrikam.example"), "barbara@fabrikam.example")
    assert directories.bind_waiting(now=timezone.now()) == 0
    factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    assert directories.bind_waiting(now=timezone.now()) == 1
    assert Connection.objects.get().mailbox_accesses.count() == 1
    assert not Incident.objects.filter(closed_at=None).exists()


def test_a_directory_that_the_policy_closes_is_not_bound(
    common: AppRegistration, alice: User, bob: User, person: Meet
) -> None:
    factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    policy.change(None, Rules(tenants=("sandbox/common",)), actor=alice, now=timezone.now())
    member = person(bob)
    member.connect(start(member, common, "desk@fabrikam.example"), "barbara@fabrikam.example")
    connection = Connection.objects.get()
    assert (connection.tenant.directory_id, connection.mailbox_accesses.count()) == ("common", 0)
    assert_shows(
        member.get(f"/connections/{connection.pk}/").content.decode(), "allow connections in the tenant Fabrikam"
    )


def test_an_app_that_one_directory_has_disabled_keeps_working_for_the_others(
    common: AppRegistration, alice: User, bob: User, person: Meet, sandbox: Control
) -> None:
    """At a shared endpoint, Microsoft's answer is about one account's directory."""
    for upn in (factories.ADA, "barbara@fabrikam.example"):
        member = person(bob)
        data = {"kind": "authorization_code", "name": upn, "chosen": ["mail.read"]}
        member.connect(member.post(f"/connect/several/?app={common.pk}", **data), upn)
    sandbox.set_app(seed.MULTI_APP, disabled_in=[seed.FABRIKAM])
    now = timezone.now()
    assert sweep_due(now).renewed == 1
    assert factories.reloaded(common).rejected_at is None
    assert not AppConsent.objects.filter(rejected_at__isnull=False).exists()
    blocked = Connection.objects.get(status="blocked")
    assert (blocked.status_code, blocked.account_username) == ("AADSTS7000112", "barbara@fabrikam.example")
    sandbox.set_app(seed.MULTI_APP, disabled_in=[])
    assert sweep_due(now + timedelta(minutes=1)).renewed == 2
    assert not Connection.objects.exclude(status="active").exists()


def test_a_directory_gets_another_name_if_its_domain_is_taken(
    common: AppRegistration, alice: User, bob: User, person: Meet
) -> None:
    factories.make_tenant(name="fabrikam.example", directory_id=seed.LITWARE, tid=seed.LITWARE)
    policy.change(None, Rules(register_tenants=True), actor=alice, now=timezone.now())
    member = person(bob)
    member.connect(start(member, common, "desk@fabrikam.example"), "barbara@fabrikam.example")
    assert Connection.objects.get().tenant.name == f"fabrikam.example ({seed.FABRIKAM[:8]})"


def test_personal_accounts_bind_nothing_and_ask_nobody(
    common: AppRegistration, alice: User, bob: User, person: Meet, sandbox: Control
) -> None:
    sandbox.set_app(seed.MULTI_APP, audience="AzureADandPersonalMicrosoftAccount")
    policy.change(None, Rules(register_tenants=True), actor=alice, now=timezone.now())
    member = person(bob)
    member.connect(start(member, common, "desk@outlook.example"), "margaret@outlook.example")
    connection = Connection.objects.get()
    assert (connection.status, connection.tenant.directory_id) == ("active", "common")
    assert not Incident.objects.exists()
    page = member.get(f"/connections/{connection.pk}/").content.decode()
    assert_shows(page, "Personal Microsoft accounts")


def test_the_api_adds_tests_and_removes_a_tenant_and_connects_there(
    app: AppRegistration, alice: User, sandbox: Control
) -> None:
    program = Program(alice)
    response = program.post(
        f"app-registrations/{app.pk}/tenants", {"directory_id": "fabrikam.example", "name": "Fabrikam"}
    )
    assert response.status_code == 201
    tenant_id = response.json()["tenant_id"]
    assert f"/{seed.FABRIKAM}/" in response.json()["consent_url"]
    again = program.post(f"app-registrations/{app.pk}/tenants", {"directory_id": seed.FABRIKAM})
    assert (again.status_code, again.json()["tenant_id"]) == (201, tenant_id)

    sandbox.grant_consent(seed.MULTI_APP, tenant=seed.FABRIKAM, roles=ROLES)
    checked = program.post(f"app-registrations/{app.pk}/tenants/{tenant_id}/check", {})
    assert checked.json()["granted_roles"] == ROLES
    body = {
        "app_registration": app.pk, "tenant_id": tenant_id, "name": "Robot",
        "authentication_type": "client_credentials", "capabilities": ["mail.read"],
    }  # fmt: skip
    connection = program.post("connections", body).json()
    assert (connection["status"], connection["tenant"]) == ("active", {"id": tenant_id, "name": "Fabrikam"})
    assert program.delete(f"app-registrations/{app.pk}/tenants/{tenant_id}").status_code == 409
    program.delete(f"connections/{connection['id']}")
    assert program.delete(f"app-registrations/{app.pk}/tenants/{tenant_id}").status_code == 204
    listed = program.get(f"app-registrations/{app.pk}/tenants").json()["items"]
    assert [row["tenant"] for row in listed] == ["Contoso"]
