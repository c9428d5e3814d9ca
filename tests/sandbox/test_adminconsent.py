"""Admin consent in both styles: the grants and the callbacks, including callbacks that are not true."""

import jwt
import pytest

from portal.sandbox import seed
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Browser, Client

CALLBACK = "http://localhost:8000/consent/callback/"
V1 = f"/{seed.CONTOSO}/adminconsent"
V2 = f"/{seed.CONTOSO}/v2.0/adminconsent"
DEFAULT = {"scope": "https://graph.microsoft.com/.default"}


def start(browser: Browser, path: str, name: str = "admin@contoso.example", **query: str) -> None:
    given = {"client_id": seed.CONNECTIONS_APP, "redirect_uri": CALLBACK, "state": "state-9", **query}
    browser.open(path, **given)
    if browser.page.status_code == 200:
        browser.sign_in(name)


def roles(sandbox: SandboxProcess, **changes: str) -> list[str]:
    answer = Client(sandbox.url).token(grant_type="client_credentials", **DEFAULT, **changes).json()
    roles: list[str] = jwt.decode(answer["access_token"], options={"verify_signature": False}).get("roles", [])
    return roles


@pytest.mark.parametrize(("path", "query"), [(V1, {}), (V2, DEFAULT)])
def test_an_admin_grants_everything_the_app_declares(
    browser: Browser, sandbox: SandboxProcess, path: str, query: dict[str, str]
) -> None:
    assert roles(sandbox) == []
    start(browser, path, **query)
    assert "in <strong>the whole organization</strong>" in browser.page.text
    browser.submit("consent")
    assert browser.answer["admin_consent"] == "True"
    assert browser.answer["tenant"] == seed.CONTOSO
    assert browser.answer["state"] == "state-9"
    assert ("scope" in browser.answer) is (path == V2)
    assert roles(sandbox) == ["Mail.Read", "User.Read.All", "Application.Read.All"]


def test_named_scopes_grant_delegated_permissions_only(browser: Browser, sandbox: SandboxProcess) -> None:
    start(browser, V2, scope="https://graph.microsoft.com/Mail.Read offline_access")
    browser.submit("consent")
    assert browser.answer["scope"] == "offline_access https://graph.microsoft.com/Mail.Read"
    assert roles(sandbox) == []
    other = Browser(sandbox.url)
    other.authorize()
    other.sign_in("alan@contoso.example")
    assert other.answer["code"]


def test_cancelling_answers_in_the_shape_of_each_style(browser: Browser) -> None:
    start(browser, V1)
    browser.submit("cancel")
    assert browser.answer == {
        "error": "permission_denied",
        "error_description": "The admin canceled the request",
        "state": "state-9",
    }
    start(browser, V2, **DEFAULT)
    browser.submit("cancel")
    assert browser.answer["admin_consent"] == "True", "it is there on failure too"
    assert browser.answer["error"] == "consent_required"
    assert "AADSTS65004" in browser.answer["error_description"]


def test_a_member_gets_an_error_and_grants_nothing(browser: Browser, sandbox: SandboxProcess) -> None:
    start(browser, V2, "ada@contoso.example", **DEFAULT)
    assert browser.answer["error"] == "access_denied"
    assert "AADSTS90094" in browser.answer["error_description"]
    assert roles(sandbox) == []


def test_a_signed_in_member_can_switch_to_an_admin(browser: Browser) -> None:
    start(browser, V2, "ada@contoso.example", **DEFAULT)
    browser.authorize()
    browser.sign_in("ada@contoso.example")
    browser.submit("consent")
    start_page = browser.open(V2, client_id=seed.CONNECTIONS_APP, redirect_uri=CALLBACK, **DEFAULT)
    assert "Pick an account" in start_page.text
    browser.submit("other")
    browser.sign_in("admin@contoso.example")
    assert "Permissions requested" in browser.page.text


def test_the_callback_can_be_false(browser: Browser, sandbox: SandboxProcess) -> None:
    sandbox.control.consent_lie("nothing")
    start(browser, V2, **DEFAULT)
    browser.submit("consent")
    assert browser.answer["admin_consent"] == "True"
    assert "error" not in browser.answer
    assert roles(sandbox) == []
    sandbox.control.consent_lie("wrong_tenant")
    start(browser, V2, **DEFAULT)
    browser.submit("consent")
    assert browser.answer["tenant"] == seed.FABRIKAM


def test_a_grant_can_arrive_later(browser: Browser, sandbox: SandboxProcess) -> None:
    sandbox.control.consent_lie("later")
    start(browser, V2, **DEFAULT)
    browser.submit("consent")
    assert roles(sandbox) == []
    sandbox.control.clock(61)
    assert "Mail.Read" in roles(sandbox)


def test_consent_in_another_directory_makes_the_service_principal(browser: Browser, sandbox: SandboxProcess) -> None:
    start(browser, "/organizations/v2.0/adminconsent", "admin@fabrikam.example", client_id=seed.MULTI_APP, **DEFAULT)
    browser.sign_in("admin@fabrikam.example", "sandbox-edsger")
    browser.submit("consent")
    assert browser.answer["tenant"] == seed.FABRIKAM
    multi = Client(sandbox.url, seed.MULTI_APP, seed.MULTI_SECRET, tenant=seed.FABRIKAM)
    assert multi.token(grant_type="client_credentials", **DEFAULT).status_code == 200


@pytest.mark.parametrize(
    ("path", "changes", "code"),
    [
        (V2, {"redirect_uri": CALLBACK + "x"}, 50011),
        (V2, {"client_id": "00000000-0000-4000-8000-000000000000"}, 700016),
        ("/common/v2.0/adminconsent", {}, 90023),
        ("/nowhere.example/adminconsent", {}, 90002),
    ],
)
def test_errors_without_a_trusted_redirect_uri_stay_on_the_page(
    browser: Browser, path: str, changes: dict[str, str], code: int
) -> None:
    given = {"client_id": seed.CONNECTIONS_APP, "redirect_uri": CALLBACK, **DEFAULT, **changes}
    page = browser.open(path, **given)
    assert "Location" not in page.headers
    assert f"AADSTS{code}" in page.text
