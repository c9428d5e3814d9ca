"""The sign-in pages: prompts, responses to the app, and errors that stay on the page."""

import base64
import hashlib

import pytest

from portal.sandbox import seed
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import CALLBACK, Browser, Client
from tests.views.pages import assert_shows


def signed_in(browser: Browser, name: str = "ada@contoso.example") -> None:
    browser.authorize()
    browser.sign_in(name)
    browser.submit("consent")
    assert browser.answer["code"]


def test_a_person_signs_in_consents_and_comes_back_with_code_and_state(browser: Browser) -> None:
    assert_shows(browser.authorize(state="s-<b>1</b>").text, "Sandbox – not Microsoft", "sandbox-ada")
    assert_shows(browser.sign_in("ada@contoso.example").text, "Permissions requested", "Read mail")
    browser.submit("consent")
    assert browser.page.headers["Location"].startswith(CALLBACK + "?code=")
    assert browser.answer["state"] == "s-1", "Entra strips HTML from the state"


def test_a_signed_in_person_with_consent_is_redirected_at_once(browser: Browser) -> None:
    signed_in(browser)
    browser.authorize()
    assert browser.answer["code"]


def test_a_wrong_password_is_refused_on_the_page(browser: Browser) -> None:
    browser.authorize()
    page = browser.sign_in("ada@contoso.example", "wrong")
    assert page.status_code == 200
    assert "Your account or password is incorrect." in page.text


@pytest.mark.parametrize(
    ("changes", "tenant", "code"),
    [
        ({"client_id": "00000000-0000-4000-8000-000000000000"}, seed.CONTOSO, 700016),
        ({"redirect_uri": CALLBACK.upper()}, seed.CONTOSO, 50011),
        ({"redirect_uri": CALLBACK + "x"}, seed.CONTOSO, 50011),
        ({}, "nowhere.example", 90002),
        ({}, "common", 50194),
        ({}, seed.FABRIKAM, 700016),
    ],
)
def test_errors_without_a_trusted_redirect_uri_stay_on_the_page(
    browser: Browser, changes: dict[str, str], tenant: str, code: int
) -> None:
    page = browser.authorize(tenant, **changes)
    assert "Location" not in page.headers
    assert f"AADSTS{code}" in page.text


def test_the_port_of_localhost_does_not_count_but_the_path_does(browser: Browser) -> None:
    port = CALLBACK.replace(":8000", ":8765")
    browser.authorize(redirect_uri=port, prompt="none")
    assert browser.page.headers["Location"].startswith(port)
    assert "AADSTS50011" in browser.authorize(redirect_uri=port + "other/", prompt="none").text


@pytest.mark.parametrize(
    ("changes", "error", "code"),
    [
        ({"response_type": "token"}, "unsupported_response_type", 700054),
        ({"scope": "https://graph.microsoft.com/Mail.Raed"}, "invalid_client", 650053),
        ({"scope": "https://graph.microsoft.com/.default Mail.Read"}, "invalid_scope", 70011),
        ({"scope": "https://graph.microsoft.us/Mail.Read"}, "invalid_resource", 500011),
        ({"scope": ""}, "invalid_request", 900144),
        ({"prompt": "none"}, "login_required", 50058),
        ({"prompt": "sometimes"}, "invalid_request", 90023),
    ],
)
def test_other_errors_come_back_to_the_app(browser: Browser, changes: dict[str, str], error: str, code: int) -> None:
    browser.authorize(**changes)
    assert browser.answer["error"] == error
    assert browser.answer["error_description"].startswith(f"AADSTS{code}: ")
    assert "Correlation ID: " in browser.answer["error_description"]
    assert browser.answer["state"] == "state-1"


def test_cancelling_consent_is_access_denied_with_subcode_cancel(browser: Browser) -> None:
    browser.authorize()
    browser.sign_in("ada@contoso.example")
    browser.submit("cancel", why="consent")
    assert browser.answer["error"] == "access_denied"
    assert browser.answer["error_subcode"] == "cancel"
    assert "AADSTS65004" in browser.answer["error_description"]


def test_admin_only_permissions_lead_a_member_to_the_approval_page(browser: Browser) -> None:
    browser.authorize(scope="openid https://graph.microsoft.com/User.Read.All")
    assert "Need admin approval" in browser.sign_in("ada@contoso.example").text
    assert "Sign in" in browser.submit("other").text
    assert "Consent on behalf of your organization" in browser.sign_in("admin@contoso.example").text


def test_leaving_the_approval_page_is_access_denied_90094(browser: Browser) -> None:
    browser.authorize(scope="openid https://graph.microsoft.com/User.Read.All")
    browser.sign_in("ada@contoso.example")
    browser.submit("cancel", why="approval")
    assert browser.answer["error"] == "access_denied"
    assert "AADSTS90094" in browser.answer["error_description"]


def test_without_user_consent_an_admin_is_required_even_for_mail(browser: Browser, sandbox: SandboxProcess) -> None:
    sandbox.control.set_directory(seed.CONTOSO, user_consent=False)
    browser.authorize()
    assert "Need admin approval" in browser.sign_in("ada@contoso.example").text


def test_an_admin_consents_for_everybody(browser: Browser, sandbox: SandboxProcess) -> None:
    browser.authorize()
    browser.sign_in("admin@contoso.example")
    browser.submit("consent", everybody="on")
    other = Browser(sandbox.url)
    other.authorize()
    other.sign_in("alan@contoso.example")
    assert other.answer["code"], "nobody else is asked any more"


def test_an_admin_who_does_not_tick_the_box_consents_for_himself(browser: Browser, sandbox: SandboxProcess) -> None:
    browser.authorize()
    browser.sign_in("admin@contoso.example")
    browser.submit("consent")
    other = Browser(sandbox.url)
    other.authorize()
    assert "Permissions requested" in other.sign_in("alan@contoso.example").text


def test_mfa_is_requested_once_per_session(browser: Browser, sandbox: SandboxProcess) -> None:
    sandbox.control.set_person("ada@contoso.example", mfa_required=True)
    browser.authorize()
    assert "Approve sign-in request" in browser.sign_in("ada@contoso.example").text
    assert "Permissions requested" in browser.submit("mfa").text
    browser.submit("consent")
    assert browser.answer["code"]
    browser.authorize()
    assert browser.answer["code"]


def test_prompts(browser: Browser) -> None:
    signed_in(browser)
    assert "Pick an account" in browser.authorize(prompt="select_account").text
    browser.submit("account", account=seed.fixed_id("ada@contoso.example"))
    assert browser.answer["code"]
    page = browser.authorize(prompt="login")
    assert "Password" in page.text
    assert "Pick an account" not in page.text
    assert "Permissions requested" in browser.authorize(prompt="consent").text
    browser.authorize(prompt="none")
    assert browser.answer["code"]
    browser.authorize(prompt="none", scope="openid Calendars.Read")
    assert browser.answer["error"] == "consent_required"


def test_a_login_hint_fills_in_the_name_and_chooses_among_sessions(browser: Browser) -> None:
    assert 'value="alan@contoso.example"' in browser.authorize(login_hint="alan@contoso.example").text
    signed_in(browser)
    browser.authorize(prompt="login")
    browser.sign_in("alan@contoso.example")
    browser.submit("consent")
    assert "Pick an account" in browser.authorize().text
    browser.authorize(login_hint="ada@contoso.example")
    assert browser.answer["code"]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"disabled": True}, 50057), ({"password_expired": True}, 50055), ({"ca_blocked": True}, 53003)],
)
def test_people_who_may_not_sign_in_see_the_error_on_the_page(
    browser: Browser, sandbox: SandboxProcess, change: dict[str, bool], code: int
) -> None:
    sandbox.control.set_person("ada@contoso.example", **change)
    browser.authorize()
    page = browser.sign_in("ada@contoso.example")
    assert "Location" not in page.headers
    assert f"AADSTS{code}" in page.text


def test_a_person_of_another_directory_is_refused_but_a_guest_is_not(browser: Browser, client: Client) -> None:
    browser.authorize()
    assert "AADSTS50020" in browser.sign_in("margaret@outlook.example").text
    browser.authorize()
    assert "Permissions requested" in browser.sign_in("barbara@fabrikam.example").text
    browser.submit("consent")
    assert client.redeem(browser.answer["code"]).status_code == 200


def test_a_revoked_session_has_to_sign_in_again(browser: Browser, sandbox: SandboxProcess) -> None:
    signed_in(browser)
    sandbox.control.revoke_sessions("ada@contoso.example")
    assert "Password" in browser.authorize().text


def test_fragment_and_form_post(browser: Browser) -> None:
    signed_in(browser)
    browser.authorize(response_mode="fragment")
    assert "#code=" in browser.page.headers["Location"]
    assert f'action="{CALLBACK}"' in browser.authorize(response_mode="form_post").text
    assert browser.hidden("code").startswith("1.A")


def test_forms_need_the_csrf_token(browser: Browser) -> None:
    browser.authorize()
    answer = browser.session.post(browser.page.url, data={"step": "password"}, allow_redirects=False, timeout=20)
    assert answer.status_code == 403


def test_signing_out_ends_the_session(browser: Browser) -> None:
    signed_in(browser)
    browser.open(f"/{seed.CONTOSO}/oauth2/v2.0/logout", post_logout_redirect_uri=CALLBACK)
    assert browser.page.headers["Location"] == CALLBACK
    assert "Password" in browser.authorize().text


def pkce(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


@pytest.mark.parametrize(("method", "challenge"), [("S256", pkce("verifier-1" * 5)), ("plain", "verifier-1" * 5)])
def test_a_challenge_needs_its_verifier(browser: Browser, client: Client, method: str, challenge: str) -> None:
    browser.authorize(code_challenge=challenge, code_challenge_method=method)
    browser.sign_in("ada@contoso.example")
    browser.submit("consent")
    code = browser.answer["code"]
    for verifier in (None, "another"):
        assert client.redeem(code, code_verifier=verifier).json()["error_codes"] == [501481]
    assert client.redeem(code, code_verifier="verifier-1" * 5).status_code == 200


def test_a_code_can_be_redeemed_once_in_time_by_its_own_app_at_its_own_address(
    browser: Browser, client: Client, sandbox: SandboxProcess
) -> None:
    signed_in(browser)
    code = browser.answer["code"]
    assert client.redeem(code, redirect_uri=CALLBACK + "x").json()["error_codes"] == [70000]
    multi = {"client_id": seed.MULTI_APP, "client_secret": seed.MULTI_SECRET}
    assert client.redeem(code, **multi).json()["error_codes"] == [70000]
    assert client.redeem(code).status_code == 200
    assert client.redeem(code).json()["error_codes"] == [54005]
    browser.authorize()
    late = browser.answer["code"]
    sandbox.control.clock(601)
    assert client.redeem(late).json()["error_codes"] == [70008]


def test_a_code_is_redeemed_at_the_tenant_that_issued_it(browser: Browser, sandbox: SandboxProcess) -> None:
    client = Client(sandbox.url, seed.MULTI_APP, seed.MULTI_SECRET)
    browser.authorize("common", client_id=seed.MULTI_APP)
    browser.sign_in("barbara@fabrikam.example")
    browser.submit("consent")
    code = browser.answer["code"]
    assert client.redeem(code, tenant=seed.CONTOSO).json()["error_codes"] == [700005]
    answer = client.redeem(code, tenant="common")
    assert answer.status_code == 200
    assert sandbox.control.describe_token(answer.json()["refresh_token"])["tenant"] == seed.FABRIKAM


def test_app_roles_are_in_the_id_token(browser: Browser, sandbox: SandboxProcess) -> None:
    import jwt

    client = Client(sandbox.url, seed.SIGN_IN_APP, seed.SIGN_IN_SECRET)
    callback = "http://localhost:8000/auth/complete/microsoft/"
    browser.authorize(client_id=seed.SIGN_IN_APP, redirect_uri=callback, scope="openid profile")
    browser.sign_in("admin@contoso.example")
    answer = client.redeem(browser.answer["code"], redirect_uri=callback).json()
    assert jwt.decode(answer["id_token"], options={"verify_signature": False})["roles"] == ["ITAdmin"]
    assert "refresh_token" not in answer, "offline_access was not asked for"
