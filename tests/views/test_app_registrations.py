"""Pages about app registrations: registering, testing, changing and removing them, and the script."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from connections.models import AppRegistration, Tenant
from connections.services.registry import credential_checks
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.registry.test_app_registrations import expired
from tests.views.pages import assert_shows, text


def typed(**overrides: Any) -> dict[str, Any]:
    tenant = Tenant.objects.filter(name="Contoso").first() or factories.make_tenant()
    form = {
        "tenant": tenant.pk, "name": "Mail robots", "client_id": f" {{{seed.CONNECTIONS_APP.upper()}}} ",
        "audience": "single", "allows_delegated": "on", "default_capabilities": ["mail.read"], "kind": "secret",
        "secret": f"{seed.CONNECTIONS_SECRET}\n", "expires_at": "2099-01-31", "months": "12",
    }  # fmt: skip
    return form | overrides


def test_the_form_shows_the_exact_redirect_uris_before_anything_is_saved(admin: Client, settings: Any) -> None:
    settings.PORTAL_URL = "https://portal.example"
    factories.make_tenant()
    page = admin.get(reverse("app_add")).content.decode()
    assert 'value="https://portal.example/auth/complete/microsoft-connect/"' in page
    assert_shows(page, 'value="https://portal.example/consent/callback/"', "<strong>Web</strong>")


def test_without_a_tenant_it_sends_the_admin_there_first(admin: Client) -> None:
    assert reverse("tenant_add") in admin.get(reverse("app_add")).content.decode()


def test_an_accepted_application_is_ready_and_its_secret_never_seen_again(admin: Client, sandbox: Control) -> None:
    response = admin.post(reverse("app_add"), typed(), follow=True)
    app = AppRegistration.objects.get()
    page = response.content.decode()
    assert response.request["PATH_INFO"] == reverse("app", args=[app.pk])
    assert app.is_ready
    assert (app.client_id, app.default_capabilities) == (seed.CONNECTIONS_APP, ["mail.read"])
    assert_shows(page, "Mail robots is ready", "Ready", "31 January 2099", "Read mail", seed.CONNECTIONS_APP)
    for name in ("app", "app_edit", "app_script", "credential_add"):
        assert seed.CONNECTIONS_SECRET not in admin.get(reverse(name, args=[app.pk])).content.decode()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"secret": "wrong~value"}, "not the Secret ID"),
        ({"secret": seed.CONNECTIONS_SECRET_ID}, "This is the Secret ID"),
        ({"client_id": seed.ARCHIVE_APP, "secret": seed.ARCHIVE_SECRET}, "This client secret has expired"),
        ({"client_id": "99999999-0000-4000-8000-000000000000"}, "has no application with this ID"),
        ({"client_id": seed.CONTOSO}, "This is the directory (tenant) ID"),
        ({"kind": "upload"}, "Choose a certificate file"),
        ({"expires_at": "2001-01-01"}, "This secret has expired"),
        ({"allows_delegated": ""}, "Allow delegated connections, app-only connections, or both"),
        ({"default_capabilities": ["rule.the.world"]}, "rule.the.world"),
    ],
)
def test_a_mistake_loses_only_the_secret(admin: Client, sandbox: Control, overrides: dict[str, Any], says: str) -> None:
    sent = typed(**overrides)
    response = admin.post(reverse("app_add"), sent)
    page = response.content.decode()
    assert response.status_code == 200
    assert says in page
    assert 'value="Mail robots"' in page
    assert str(sent["secret"]).strip() not in page
    assert "Save without" not in page
    assert not AppRegistration.objects.exists()


def test_only_while_microsoft_is_away_saving_untried_is_offered(admin: Client, sandbox: Control) -> None:
    sandbox.weather("unavailable", "token")
    assert "save_untried" in admin.post(reverse("app_add"), typed()).content.decode()
    assert not AppRegistration.objects.exists()
    page = admin.post(reverse("app_add"), typed(save_untried="1"), follow=True).content.decode()
    assert "Not tested yet" in page
    assert AppRegistration.objects.get().verified_at is None


def test_app_only_through_common_is_refused_with_the_reason(admin: Client, sandbox: Control) -> None:
    common = factories.make_tenant(name="Everybody", directory_id="common", tid="")
    page = admin.post(reverse("app_add"), typed(tenant=common.pk, audience="multi", allows_app_only="on"))
    assert "possible with “common”, because it" in page.content.decode()


def test_a_made_certificate_is_downloaded_uploaded_and_tried(admin: Client, sandbox: Control) -> None:
    page = admin.post(
        reverse("app_add"), typed(kind="generate", secret="", client_id=seed.ROBOTS_APP), follow=True
    ).content.decode()
    app = AppRegistration.objects.get()
    credential = app.credentials.get()
    assert "Test certificate" in page
    assert "PRIVATE KEY" not in page
    url = reverse("credential_certificate", args=[app.pk, credential.pk])
    pem = admin.get(url, {"format": "pem"}).content.decode()
    assert pem == credential.certificate
    assert admin.get(url)["Content-Disposition"].endswith('.cer"')
    verify = reverse("app_verify", args=[app.pk])
    page = text(admin.post(verify, {"credential": credential.pk}, follow=True))
    assert "Microsoft doesn't know this certificate" in page
    sandbox.add_certificate(seed.ROBOTS_APP, pem)
    page = admin.post(verify, {"credential": credential.pk}, follow=True).content.decode()
    assert "Microsoft accepts Mail robots" in page
    assert factories.reloaded(app).is_ready


def test_a_rejected_application_says_why_what_to_do_and_who(
    admin: Client, member: Client, app: AppRegistration
) -> None:
    credential_checks.reject_app(app, expired(), now=timezone.now())
    page = admin.get(reverse("app", args=[app.pk])).content.decode()
    assert_shows(page, "Rejected by Microsoft", "AADSTS7000222", "What to do:", "Assigned to: IT admins")
    assert "Rejected by Microsoft" in member.get(reverse("app", args=[app.pk])).content.decode()


def test_verifying_again_heals_it(admin: Client, sandbox: Control, app: AppRegistration) -> None:
    credential_checks.reject_app(app, expired(), now=timezone.now())
    page = admin.post(reverse("app_verify", args=[app.pk]), follow=True).content.decode()
    assert "Microsoft accepts Contoso Connections" in page
    assert factories.reloaded(app).is_ready


def test_a_member_sees_its_name_and_no_details(member: Client, app: AppRegistration) -> None:
    for url in (reverse("app", args=[app.pk]), reverse("apps")):
        page = member.get(url).content.decode()
        assert app.name in page
        assert app.client_id not in page
        assert "Test secret" not in page


@pytest.mark.parametrize("number", ["99999999", "0"])
def test_what_does_not_exist_is_not_found(admin: Client, number: str, app: AppRegistration) -> None:
    assert admin.get(reverse("app", args=[number])).status_code == 404
    assert admin.post(reverse("app_verify", args=[app.pk]), {"credential": number}).status_code == 404
    assert admin.post(reverse("app_verify", args=[app.pk]), {"credential": "1; DROP"}).status_code == 404


def test_changing_it_keeps_tenant_and_client_id(admin: Client, app: AppRegistration) -> None:
    assert 'name="tenant"' not in admin.get(reverse("app_edit", args=[app.pk])).content.decode()
    admin.post(reverse("app_edit", args=[app.pk]), typed(name="Renamed", client_id="other"))
    app.refresh_from_db()
    assert (app.name, app.client_id) == ("Renamed", seed.CONNECTIONS_APP)


def test_removing_names_the_connections_that_stand_in_the_way(admin: Client, app: AppRegistration) -> None:
    connection = factories.make_connection(app_registration=app)
    url = reverse("app_remove", args=[app.pk])
    assert connection.name in admin.get(url).content.decode()
    assert "still has connections" in admin.post(url, follow=True).content.decode()
    connection.delete()
    admin.post(url)
    assert not AppRegistration.objects.exists()


def test_the_list_filters_by_state_and_takes_the_same_queries_however_long(
    admin: Client, django_assert_num_queries: Any
) -> None:
    rejected = factories.make_app_registration(name="Broken")
    credential_checks.reject_app(rejected, expired(), now=timezone.now())
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as short:
        admin.get(reverse("apps"))
    for number in range(20):
        app = factories.make_app_registration(name=f"App {number:02}", client_id=f"id-{number}")
        factories.make_secret(app)
    with django_assert_num_queries(len(short)):
        assert "App 19" in admin.get(reverse("apps")).content.decode()
    page = admin.get(reverse("apps"), {"state": "rejected"}).content.decode()
    assert "Broken" in page
    assert "App 19" not in page


def test_the_script_for_a_new_application_asks_for_what_was_chosen(admin: Client) -> None:
    tenant = factories.make_tenant(name="Real", environment="usgov_l4", directory_id="real.example", tid="")
    query: dict[str, Any] = {
        "script": "1",
        "tenant": tenant.pk,
        "name": "O'Brien's robots",
        "audience": "single",
        "types": ["client_credentials"],
        "capabilities": ["mail.read"],
        "credential": "secret",
    }
    response = admin.get(reverse("app_add"), query)
    text = response.context["text"]
    assert_shows(text, "AzureUSGovernment", "810c84a8-4a9e-49e6-bf7d-12d183f40d01", "O'\"'\"'Brien")
    download = admin.get(reverse("app_add"), query | {"download": "1"})
    assert download.content.decode() == text
    assert "attachment" in download["Content-Disposition"]
    assert response.context["download_url"].startswith("?")


def test_in_the_sandbox_there_is_nothing_to_script(admin: Client, sandbox: Control, app: AppRegistration) -> None:
    assert "available for the sandbox" in admin.get(reverse("app_script", args=[app.pk])).content.decode()
