"""The catalogue of services, and the form that creates a connection to one of them."""

from typing import Any

import pytest
from django.test import Client

from connections.models import AppRegistration, Connection, Policy, SignInLink, Tenant, User
from connections.views.connect import MOST_APPS
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import browser_sessions, factories
from tests.views.pages import assert_answer, assert_hides, assert_shows, text

DELEGATED = {"kind": "authorization_code", "name": "Invoices", "chosen": ["mail.read"]}
NEW_APP = {
    "client_id": seed.CONNECTIONS_APP,
    "audience": "single",
    "directory_id": seed.CONTOSO,
    "environment": "sandbox",
    "credential-kind": "secret",
    "credential-secret": seed.CONNECTIONS_SECRET,
}


def second_app(**overrides: Any) -> AppRegistration:
    values = {"name": "Second", "client_id": seed.ARCHIVE_APP, "secret": None} | overrides
    return factories.make_app_registration(**values)


def test_the_catalogue_is_searched_and_carries_the_app_registration_on(member: Client) -> None:
    shown = text(member.get("/connect/?app=7"))
    assert_shows(shown, "Microsoft Outlook 365", "Prepared by an admin", 'href="/connect/teams/?app=7"')
    shown = text(member.get("/connect/?q=channel&app=x"))
    assert_shows(shown, 'href="/connect/teams/"')
    assert_hides(shown, "Microsoft Outlook 365")
    assert_shows(text(member.get("/connect/?q=fax")), "No results found")
    assert member.get("/connect/fax/").status_code == 404


def test_the_form_has_the_capabilities_of_the_service_with_the_least_ticked(
    member: Client, app: AppRegistration
) -> None:
    shown = text(member.get("/connect/sharepoint/"))
    assert_shows(shown, 'id="capability-files.read" checked', "Bring your own OAuth 2.0 app")
    assert_hides(shown, 'id="capability-mail.read"', "Shared mailboxes (", 'name="mailboxes"')
    assert_answer(member.post("/connect/sharepoint/", DELEGATED | {"app": app.pk}), 422, "Select a valid choice")
    app.default_capabilities = ["sites.read", "mail.send"]
    app.save()
    shown = text(member.get("/connect/sharepoint/"))
    assert_shows(shown, 'id="capability-sites.read" checked')
    assert_hides(shown, 'id="capability-files.read" checked')


def test_with_several_app_registrations_one_is_chosen_and_none_is_guessed(member: Client) -> None:
    first, second = factories.make_app_registration(), second_app()
    shown = text(member.get("/connect/outlook/"))
    assert_shows(shown, f'<option value="{second.pk}">', f'name="app" value="{first.pk}"')
    assert_shows(text(member.get(f"/connect/outlook/?app={second.pk}")), f'name="app" value="{second.pk}"')
    assert_answer(member.post("/connect/outlook/", DELEGATED), 422, "Choose an app registration")
    for wrong in ("0", "x", "9" * 40):
        assert member.get(f"/connect/outlook/?app={wrong}").status_code == 404
    assert not Connection.objects.exists()


def test_many_app_registrations_cost_no_more_queries_and_are_not_all_listed(admin: Client, max_queries: Any) -> None:
    tenant = factories.make_tenant()
    apps = [AppRegistration(name=f"App {number:03}", tenant=tenant, client_id=str(number)) for number in range(130)]
    AppRegistration.objects.bulk_create(apps)
    with max_queries(14):
        shown = text(admin.get("/connect/outlook/"))
    assert shown.count("<option") == MOST_APPS
    assert "Only the first 100 are listed" in shown
    last = AppRegistration.objects.get(name="App 129")
    assert f'<option value="{last.pk}" selected>' in text(admin.get(f"/connect/outlook/?app={last.pk}"))
    with max_queries(10):
        assert admin.get("/connect/").status_code == 200


def test_an_app_only_connection_has_no_sign_in_link(admin: Client, app: AppRegistration) -> None:
    form = DELEGATED | {"app": app.pk, "kind": "client_credentials", "by_link": "1"}
    assert_answer(admin.post("/connect/outlook/", form), 422, "so there is no sign-in link")
    assert not Connection.objects.exists()


def test_a_link_waits_for_the_approval_that_the_policy_requires(member: Client, app: AppRegistration) -> None:
    Policy.objects.create(rules={"capabilities": {"mail.read": "approval"}})
    answer = member.post("/connect/outlook/", DELEGATED | {"app": app.pk, "by_link": "1"}, follow=True)
    assert_answer(answer, 200, "Approval requested")
    assert not SignInLink.objects.exists()


def test_a_member_brings_an_app_registration_that_stays_theirs(
    member: Client, admin: Client, stranger: Client, sandbox: Control
) -> None:
    assert member.get("/connect/outlook/new-app/").status_code == 403
    assert "Use another app registration" not in text(member.get("/connect/outlook/"))
    Policy.objects.create(rules={"member_apps": True})
    assert member.get("/connect/outlook/")["Location"] == "/connect/outlook/new-app/"
    assert_answer(member.post("/connect/outlook/new-app/", DELEGATED | NEW_APP), 302)
    app = AppRegistration.objects.get()
    assert app.is_personal
    for client in (stranger, admin):
        assert client.get(f"/connect/outlook/?app={app.pk}").status_code == 403
        assert client.get("/connect/outlook/")["Location"] == "/connect/outlook/new-app/"
    assert member.get("/connect/outlook/").status_code == 200

    # An IT admin opens it to everyone.
    page = f"/apps/{app.pk}/edit/"
    form = {"name": app.name, "audience": "single", "allows_delegated": "on"}
    assert "Only the person who added it" in text(admin.get(page))
    assert_answer(admin.post(page, form), 302)
    assert_answer(stranger.get("/connect/outlook/"), 200, app.name)
    assert "Only the person who added it" not in text(admin.get(page))


def test_a_federated_credential_leads_to_what_entra_must_be_told(admin: Client, sandbox: Control) -> None:
    form = {name: value for name, value in NEW_APP.items() if name != "credential-secret"}
    answer = admin.post("/connect/outlook/new-app/", DELEGATED | form | {"credential-kind": "federated"}, follow=True)
    app = AppRegistration.objects.get()
    assert answer.redirect_chain == [(f"/apps/{app.pk}/", 302)]
    shown = text(answer)
    assert_shows(shown, "Invoices was saved. Create the federated credential in Entra", "Subject")
    assert not app.is_ready


def test_adding_an_app_registration_needs_a_fresh_sign_in_and_keeps_no_secret(client: Client, alice: User) -> None:
    browser_sessions.sign_in(client, alice, is_fresh=False)
    answer = client.post("/connect/outlook/new-app/", DELEGATED | NEW_APP)
    assert answer["Location"].startswith("/account/confirm/")
    assert seed.CONNECTIONS_SECRET not in str(client.session["held_form"])
    assert not Tenant.objects.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"directory_id": ""}, "Enter the directory (tenant) ID or a verified domain."),
        ({"client_id": seed.CONTOSO}, "This is the directory (tenant) ID"),
        ({"credential-secret": ""}, "Enter a valid client secret."),
        ({"credential-kind": "generate"}, "Select a valid choice"),
        ({"directory_id": "", "audience": "multi", "kind": "client_credentials"}, "Enter the directory (tenant) ID"),
        ({"environment": "moon"}, "Select a valid choice"),
        (
            {"credential-kind": "federated", "credential-secret": "", "kind": "client_credentials"},
            "Enter a client secret or upload a certificate.",
        ),
        ({"audience": "multi", "mailboxes": "x@contoso.example", "directory_id": ""}, "AADSTS"),
    ],
)
def test_mistakes_are_named_and_nothing_is_stored(
    change: dict[str, str], words: str, admin: Client, sandbox: Control
) -> None:
    answer = admin.post("/connect/outlook/new-app/", DELEGATED | NEW_APP | change)
    assert_answer(answer, 422, words)
    assert seed.CONNECTIONS_SECRET not in answer.content.decode()
    assert not Tenant.objects.exists()
