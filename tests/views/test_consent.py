"""Pages about admin consent, using the sandbox's real pages where it matters."""

import re
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from django.test import Client
from django.urls import reverse

from connections.models import ConsentLink, User
from connections.services.consent import admin_consent
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.consent.test_admin_consent import came_back, delegated, grant, query, robots, withdraw
from tests.views.pages import assert_answer, assert_hides, assert_shows, text

pytestmark = pytest.mark.usefixtures("sandbox")

State = ConsentLink.State
CALLBACK = "/consent/callback/"


def at_microsoft(url: str, *, upn: str, step: str) -> str:
    """Sign in to the sandbox and press Accept or Cancel on its consent page; return the address it redirects to."""
    with requests.Session() as browser:
        page = browser.get(url, timeout=10)
        sign_in = {"step": "password", "login": upn, "password": _PASSWORDS[upn]}
        for answer in (sign_in, {"step": step, "flow": ""}):
            hidden = {name: _hidden(name, page.text) for name in ("csrfmiddlewaretoken", "flow")}
            page = browser.post(
                url, data={**answer, **hidden}, headers={"Referer": url}, timeout=10, allow_redirects=False
            )
            if "Location" in page.headers:
                return page.headers["Location"]
    raise AssertionError(f"The sandbox did not send the browser back: {page.status_code}")


def _hidden(name: str, page: str) -> str:
    match = re.search(rf'name="{name}" value="([^"]*)"', page)
    return match.group(1) if match else ""


_PASSWORDS = {"admin@contoso.example": "sandbox-katherine", "ada@contoso.example": "sandbox-ada"}


def callback_of(url: str) -> str:
    parts = urlsplit(url)
    assert parts.path == CALLBACK
    return f"{CALLBACK}?{parts.query}"


def test_the_panel_begins_with_nobody_asked_and_names_what_is_needed(admin: Client) -> None:
    page = text(admin.get(reverse("app", args=[robots().pk])))
    assert_shows(page, "been requested in this portal yet", "Mail.Read", "Grant consent in Microsoft Entra")


def test_going_at_once_leads_to_microsoft(admin: Client) -> None:
    response = admin.post(reverse("consent_start", args=[robots().pk]), {"go": "1"})
    assert response.status_code == 302
    assert f"/{factories.DIRECTORY_ID}/v2.0/adminconsent?" in response["Location"]


def test_a_link_to_send_is_shown_on_every_visit_until_it_is_used(admin: Client, auditor: Client) -> None:
    url = reverse("consent_start", args=[robots().pk])
    assert admin.post(url, {"link": "1"})["Location"] == url
    for _ in range(2):
        assert "/v2.0/adminconsent?client_id=" in text(admin.get(url))
    assert "adminconsent?" not in text(auditor.get(url))


def test_another_directory_is_asked_of_multitenant_applications_only(admin: Client) -> None:
    single, multi = robots(), robots(name="Multi", client_id=seed.MULTI_APP, audience="multi")
    assert "Other directory" not in text(admin.get(reverse("consent_start", args=[single.pk])))
    url = reverse("consent_start", args=[multi.pk])
    for typed in ("https://login.microsoftonline.com/x", "fabrikam", "common"):
        response = admin.post(url, {"go": "1", "directory_id": typed})
        assert response.status_code == 422
        assert response.context["consent"]["form"].errors["directory_id"]
        assert f'value="{typed}"' in text(response)
    assert f"/{seed.FABRIKAM}/v2.0" in admin.post(url, {"go": "1", "directory_id": seed.FABRIKAM})["Location"]


def test_consent_is_verified_when_the_browser_comes_back(sandbox: Control, admin: Client) -> None:
    withdraw(sandbox)
    app = robots()
    url = admin.post(reverse("consent_start", args=[app.pk]), {"go": "1"})["Location"]
    page = admin.get(callback_of(at_microsoft(url, upn="admin@contoso.example", step="consent")))
    assert_shows(text(page), "Granted and verified", "Mail.Read")
    assert ConsentLink.objects.get().state == State.VERIFIED
    assert "Granted and verified" in text(admin.get(reverse("app", args=[app.pk])))


def test_cancel_at_microsoft_is_a_page_in_plain_words(admin: Client) -> None:
    url = admin.post(reverse("consent_start", args=[robots().pk]), {"go": "1"})["Location"]
    page = text(admin.get(callback_of(at_microsoft(url, upn="admin@contoso.example", step="cancel"))))
    assert "cancelled at Microsoft" in page
    assert ConsentLink.objects.get().state == State.DECLINED


def test_an_outside_administrator_is_told_what_they_can_do(admin: Client) -> None:
    app = robots()
    url = admin.post(reverse("consent_start", args=[app.pk]), {"go": "1"})["Location"]
    answer = callback_of(at_microsoft(url, upn="admin@contoso.example", step="cancel"))
    outsider = Client()
    page = text(outsider.get(answer))
    assert_shows(page, "Declined", "Ask the person who sent you the link for a new one.")
    assert_hides(page, "You can start again at any time.", "Go to home page")
    page = text(outsider.get(answer))
    assert_shows(page, "no longer valid", "ask the person who sent you the link for a new one")
    assert_hides(page, "IT admins can create a new link there.", "Go to home page")


def test_somebody_without_the_right_is_sent_back_with_what_to_do(admin: Client) -> None:
    url = admin.post(reverse("consent_start", args=[robots().pk]), {"go": "1"})["Location"]
    page = text(admin.get(callback_of(at_microsoft(url, upn="ada@contoso.example", step="consent"))))
    assert_shows(page, "state-broken", "can grant consent for the directory")


@pytest.mark.parametrize("lie", ["nothing", "later"])
def test_a_callback_that_lies_is_not_believed(sandbox: Control, admin: Client, lie: str) -> None:
    withdraw(sandbox)
    sandbox.consent_lie(kind=lie)
    app = robots()
    url = admin.post(reverse("consent_start", args=[app.pk]), {"go": "1"})["Location"]
    page = text(admin.get(callback_of(at_microsoft(url, upn="admin@contoso.example", step="consent"))))
    assert "Reported, checking" in page
    link = ConsentLink.objects.get()
    assert link.state == State.GRANTED
    check = {"check": str(link.pk)}
    assert "include the permissions yet" in text(
        admin.post(reverse("consent_start", args=[app.pk]), check, follow=True)
    )
    grant(sandbox, "Mail.Read", "User.Read.All")
    assert "Consent is verified" in text(admin.post(reverse("consent_start", args=[app.pk]), check, follow=True))


def test_an_administrator_without_account_here_reads_the_result_and_nothing_else(alice: User, client: Client) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url)}"))
    assert_shows(page, "Consent is granted and verified.", "You can close this page.")
    assert_hides(page, "Alice", "Tokens contain", "Application.Read.All", "View consent status")
    assert ConsentLink.objects.get().state == State.VERIFIED


def test_a_visitor_who_declines_is_recorded(alice: User, client: Client) -> None:
    _, url = admin_consent.start(delegated(), actor=alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url, error='permission_denied')}"))
    assert_shows(page, "Nothing was granted.", "The result is recorded.", "What did Microsoft show?")
    assert ConsentLink.objects.get().state == State.DECLINED


def test_an_outage_seen_by_a_visitor_leaves_the_link_usable(alice: User, client: Client) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    page = text(client.get(f"{CALLBACK}?{came_back(url, error='server_error')}"))
    assert_shows(page, "You can open the link again later.")
    assert_hides(page, "The result is recorded.")
    assert ConsentLink.objects.get().state == State.OPEN
    assert client.head(f"{CALLBACK}?{came_back(url)}").status_code == 405


def test_a_used_or_made_up_link_is_over(admin: Client, alice: User, client: Client) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    back = f"{CALLBACK}?{came_back(url)}"
    assert admin.get(back).status_code == 200
    for visitor, where in ((admin, back), (client, f"{CALLBACK}?state=guess&admin_consent=True"), (client, CALLBACK)):
        assert_answer(visitor.get(where), 400, "This consent link is no longer valid")


def test_nothing_is_lost_if_microsoft_is_down_while_verifying(sandbox: Control, admin: Client, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    sandbox.weather(kind="unavailable", where="token")
    assert "The portal couldn't verify it" in text(admin.get(f"{CALLBACK}?{came_back(url)}"))
    assert ConsentLink.objects.get().state == State.GRANTED


def test_what_a_callback_claims_is_never_shown_as_markup(admin: Client, alice: User) -> None:
    _, url = admin_consent.start(robots(), actor=alice)
    evil = urlencode(
        {"error": "<b>x</b>", "error_description": "<script>alert(1)</script>", "state": query(url)["state"]}
    )
    assert_hides(text(admin.get(f"{CALLBACK}?{evil}")), "<script>alert", "<b>x</b>")


def test_checking_a_request_of_another_application_is_404(admin: Client, alice: User) -> None:
    link, _ = admin_consent.start(robots(), actor=alice)
    other = delegated(name="Other")
    for number in (link.pk, "x", "", "9" * 40):
        response = admin.post(reverse("consent_start", args=[other.pk]), {"check": number})
        assert response.status_code == 404, number
