"""An IT admin registers a tenant and an app registration and gets consent, and members see what they may use."""

from typing import Any

from connections.models import AppRegistration, AuditEvent, Connection, ConsentLink, Tenant, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person

ADMINISTRATOR = "admin@contoso.example"


def register_tenant(admin: Person, directory: str = "contoso.example") -> Tenant:
    admin.post("/tenants/add/", name="Contoso", environment="sandbox", directory_id=directory)
    return Tenant.objects.get()


def grant_consent(admin: Person, sandbox: Control) -> tuple[AppRegistration, Any]:
    """Grant admin consent through the portal's link; return the app registration and the portal's page after that."""
    app = factories.make_app_registration(default_capabilities=["mail.read"])
    sandbox.withdraw_consent(factories.CLIENT_ID)
    admin.follow_to_microsoft(admin.post(f"/apps/{app.pk}/consent/", go="1"))
    admin.microsoft.sign_in(ADMINISTRATOR)
    admin.microsoft.submit("consent")
    return app, admin.return_to_portal()


def app_form(tenant: Tenant, **changes: object) -> dict[str, object]:
    return {
        "tenant": tenant.pk,
        "name": "Contoso Connections",
        "client_id": seed.CONNECTIONS_APP,
        "audience": "single",
        "allows_delegated": "on",
        "allows_app_only": "on",
        "default_capabilities": ["mail.read"],
        "kind": "secret",
        "secret": seed.CONNECTIONS_SECRET,
        "expires_at": "2099-01-31",
        "months": "12",
        **changes,
    }


def test_from_an_empty_portal_to_an_app_registration_that_is_ready(person: Meet, alice: User, bob: User) -> None:
    admin = person(alice)
    tenant = register_tenant(admin, "  Contoso.Example\n")
    assert (tenant.directory_id, tenant.tid) == ("contoso.example", seed.CONTOSO)

    answer = admin.post("/apps/add/", **app_form(tenant))
    app = AppRegistration.objects.get()
    assert answer["Location"] == f"/apps/{app.pk}/"
    assert app.is_ready
    page = admin.get(f"/apps/{app.pk}/").content.decode()
    assert "http://localhost:8000/auth/complete/microsoft-connect/" in page
    assert seed.CONNECTIONS_SECRET not in page

    choices = person(bob).portal.get("/connect/outlook/").content.decode()
    assert "Contoso Connections" in choices
    assert {event.actor for event in AuditEvent.objects.all()} == {alice}


def test_the_secrets_id_is_caught_before_anything_is_sent(person: Meet, alice: User, sandbox: Control) -> None:
    admin = person(alice)
    tenant = register_tenant(admin)
    sandbox.clear_calls()
    page = admin.post("/apps/add/", **app_form(tenant, secret=seed.CONNECTIONS_SECRET_ID)).content.decode()
    assert "This is the Secret ID" in page
    assert "Contoso Connections" in page, "nothing typed is lost"
    assert seed.CONNECTIONS_SECRET_ID not in page, "secrets excepted"
    assert not sandbox.calls(limit=0)["by_endpoint"].get("token")


def test_admin_consent_is_asked_by_link_and_verified_by_a_token(person: Meet, alice: User, sandbox: Control) -> None:
    admin = person(alice)
    app, page = grant_consent(admin, sandbox)

    request = ConsentLink.objects.get()
    assert request.state == "verified"
    assert request.verified_at is not None
    assert page.status_code in (200, 302)
    assert "Granted and verified" in admin.get(f"/apps/{app.pk}/").content.decode()


def test_a_callback_that_lies_about_success_is_not_believed(person: Meet, alice: User, sandbox: Control) -> None:
    sandbox.consent_lie("nothing")
    grant_consent(person(alice), sandbox)

    assert ConsentLink.objects.get().state == "granted", "said so, but no token shows it"


def test_removing_what_is_in_use_is_refused_with_a_list(person: Meet, alice: User) -> None:
    connection = factories.make_connection()
    admin = person(alice)
    app = connection.app_registration
    assert "Invoices" in admin.portal.post(f"/apps/{app.pk}/remove/", follow=True).content.decode()
    assert Connection.objects.count() == AppRegistration.objects.count() == 1
