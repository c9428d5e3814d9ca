"""Tokens for other resources than Graph: one resource a request, with its own audience, permissions and consent."""

import jwt
import pytest
import requests

from portal.sandbox import process, seed
from tests.sandbox.conftest import Browser, Client

IMAP = "https://outlook.office.com/IMAP.AccessAsUser.All"
AZURE = "https://management.azure.com/user_impersonation"
ADA = "ada@contoso.example"


def claims(answer: requests.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    return jwt.decode(answer.json()["access_token"], options={"verify_signature": False})


def refresh_token(sandbox: process.SandboxProcess, *scopes: str) -> str:
    grant = sandbox.control.issue_grant(seed.CONNECTIONS_APP, ADA, ["offline_access", *scopes])
    return str(grant["refresh_tokens"][0])


def test_one_grant_yields_a_token_of_each_resource(sandbox: process.SandboxProcess, client: Client) -> None:
    token = refresh_token(sandbox, "Mail.Read", "exchange/IMAP.AccessAsUser.All", "azure/user_impersonation")
    mail = client.refresh(token, scope=f"{IMAP} offline_access")
    assert (claims(mail)["aud"], claims(mail)["scp"]) == ("https://outlook.office.com", "IMAP.AccessAsUser.All")
    assert mail.json()["scope"] == IMAP
    assert mail.json()["refresh_token"]
    azure = claims(client.refresh(token, scope=AZURE))
    assert (azure["aud"], azure["scp"]) == ("https://management.azure.com", "user_impersonation")
    graph = claims(client.refresh(token, scope="https://graph.microsoft.com/Mail.Read"))
    assert graph["aud"] == "https://graph.microsoft.com"
    assert "IMAP" not in str(graph["scp"])


def test_two_resources_in_one_request_are_refused(sandbox: process.SandboxProcess, client: Client) -> None:
    token = refresh_token(sandbox, "exchange/IMAP.AccessAsUser.All", "azure/user_impersonation")
    answer = client.refresh(token, scope=f"{IMAP} {AZURE}")
    assert answer.json()["error_codes"] == [700022]


@pytest.mark.parametrize("scope", [IMAP, "https://outlook.office.com/.default"])
def test_consent_is_per_resource(sandbox: process.SandboxProcess, client: Client, scope: str) -> None:
    answer = client.refresh(refresh_token(sandbox, "Mail.Read"), scope=scope)
    assert answer.json()["error_codes"] == [65001]


def test_a_sign_in_can_ask_for_consent_to_another_resource(browser: Browser, client: Client) -> None:
    browser.authorize(scope=f"openid profile offline_access {IMAP}")
    page = browser.sign_in(ADA)
    assert "via IMAP" in page.text
    browser.submit("consent")
    token = client.redeem(browser.answer["code"], scope=f"openid profile offline_access {IMAP}")
    assert claims(token)["aud"] == "https://outlook.office.com"


def test_app_only_tokens_contain_the_roles_of_their_resource(sandbox: process.SandboxProcess, client: Client) -> None:
    sandbox.control.grant_consent(seed.CONNECTIONS_APP, roles=["Mail.Read", "exchange/IMAP.AccessAsApp"])
    scope = "https://outlook.office365.com/.default"
    token = claims(client.token(grant_type="client_credentials", scope=scope))
    assert (token["aud"], token["roles"]) == ("https://outlook.office365.com", ["IMAP.AccessAsApp"])
    azure = claims(client.token(grant_type="client_credentials", scope="https://management.azure.com/.default"))
    assert "roles" not in azure


def test_a_host_of_another_organisation_is_no_resource(sandbox: process.SandboxProcess, client: Client) -> None:
    answer = client.token(grant_type="client_credentials", scope="https://fabrikam.sharepoint.com/.default")
    assert answer.json()["error_codes"] == [500011]
