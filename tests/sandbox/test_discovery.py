"""OpenID metadata and keys, which differ between a directory and ``common``, as at Microsoft."""

import jwt
import pytest
import requests

from portal.sandbox import seed, state
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Browser, Client


def metadata(sandbox: SandboxProcess, tenant: str) -> requests.Response:
    return requests.get(f"{sandbox.url}/{tenant}/v2.0/.well-known/openid-configuration", timeout=20)


@pytest.mark.parametrize("tenant", [seed.CONTOSO, "contoso.example", "CONTOSO.example"])
def test_a_directory_is_known_by_its_id_and_its_domain(sandbox: SandboxProcess, tenant: str) -> None:
    answer = metadata(sandbox, tenant).json()
    assert answer["issuer"] == f"{sandbox.url}/{seed.CONTOSO}/v2.0"
    assert answer["token_endpoint"] == f"{sandbox.url}/{seed.CONTOSO}/oauth2/v2.0/token"


@pytest.mark.parametrize("tenant", ["common", "organizations"])
def test_the_issuer_without_a_directory_is_a_literal_template(sandbox: SandboxProcess, tenant: str) -> None:
    answer = metadata(sandbox, tenant).json()
    assert answer["issuer"] == f"{sandbox.url}/{{tenantid}}/v2.0"
    assert answer["authorization_endpoint"] == f"{sandbox.url}/{tenant}/oauth2/v2.0/authorize"


def test_consumers_is_the_directory_of_personal_accounts(sandbox: SandboxProcess) -> None:
    assert metadata(sandbox, "consumers").json()["issuer"] == f"{sandbox.url}/{state.CONSUMERS}/v2.0"


def test_an_unknown_directory_is_refused_with_90002(sandbox: SandboxProcess) -> None:
    answer = metadata(sandbox, "00000000-1111-2222-3333-444444444444")
    assert answer.status_code == 400
    assert answer.json()["error_codes"] == [90002]
    assert answer.json()["error"] == "invalid_tenant"


def test_there_is_no_revocation_endpoint(sandbox: SandboxProcess) -> None:
    assert "revocation_endpoint" not in metadata(sandbox, "common").json()


def test_the_id_token_verifies_against_the_published_keys(browser: Browser, client: Client) -> None:
    browser.authorize(nonce="nonce-7")
    browser.sign_in("ada@contoso.example")
    browser.submit("consent")
    answer = client.redeem(browser.answer["code"]).json()
    keys = jwt.PyJWKClient(f"{client.url}/{seed.CONTOSO}/discovery/v2.0/keys")
    key = keys.get_signing_key_from_jwt(answer["id_token"])
    claims = jwt.decode(
        answer["id_token"],
        key,
        algorithms=["RS256"],
        audience=seed.CONNECTIONS_APP,
        issuer=f"{client.url}/{seed.CONTOSO}/v2.0",
    )
    assert claims["nonce"] == "nonce-7"
    assert claims["tid"] == seed.CONTOSO
    assert claims["oid"] == seed.fixed_id("ada@contoso.example")
    assert claims["preferred_username"] == "ada@contoso.example"
