"""The token endpoint: tokens, and each error with Microsoft's code, status and fields."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from portal.sandbox import seed
from portal.sandbox.process import SandboxProcess
from tests.sandbox.conftest import Client

ADA = "ada@contoso.example"
MAIL = ["Mail.Read"]


def grant(sandbox: SandboxProcess, upn: str = ADA, scopes: list[str] | None = None, **more: Any) -> str:
    grant = sandbox.control.issue_grant(seed.CONNECTIONS_APP, upn, scopes or MAIL, **more)
    token: str = grant["refresh_tokens"][0]
    return token


def robots(sandbox: SandboxProcess) -> Client:
    return Client(sandbox.url, seed.ROBOTS_APP, seed.ROBOTS_SECRET)


def app_only(client: Client, **fields: Any) -> requests.Response:
    wanted = {"grant_type": "client_credentials", "scope": "https://graph.microsoft.com/.default"}
    return client.token(**{**wanted, **fields})


def refused(answer: requests.Response, status: int, error: str, code: int, suberror: str | None = None) -> None:
    body = answer.json()
    assert (answer.status_code, body["error"], body["error_codes"]) == (status, error, [code])
    assert body.get("suberror") == suberror
    assert body["error_description"].startswith(f"AADSTS{code}: ")
    assert body["error_uri"].endswith(f"/error?code={code}")
    assert {"timestamp", "trace_id", "correlation_id"} <= set(body)


def test_a_refresh_gives_new_tokens_and_keeps_the_old_one_valid(client: Client, sandbox: SandboxProcess) -> None:
    old = grant(sandbox)
    first = client.refresh(old).json()
    assert first["refresh_token"] != old
    assert client.refresh(old).status_code == 200
    assert client.refresh(first["refresh_token"]).status_code == 200
    assert 3600 <= first["expires_in"] < 5400
    assert "offline_access" not in first["scope"]
    assert "https://graph.microsoft.com/Mail.Read" in first["scope"].split()


def test_scopes_are_returned_with_the_requested_prefix(client: Client, sandbox: SandboxProcess) -> None:
    answer = client.refresh(grant(sandbox), scope=f"{client.url}/mail.read offline_access").json()
    assert f"{client.url}/Mail.Read" in answer["scope"].split()
    assert "id_token" not in answer, "openid was not asked for"
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["aud"] == "https://graph.microsoft.com"
    assert claims["scp"].split()[0] == "Mail.Read"
    assert claims["exp"] - claims["iat"] == answer["expires_in"]


def test_the_lifetime_of_access_tokens_can_be_fixed(client: Client, sandbox: SandboxProcess) -> None:
    sandbox.control.token_lifetime(600)
    assert client.refresh(grant(sandbox)).json()["expires_in"] == 600


@pytest.mark.parametrize(
    ("change", "code", "error", "suberror"),
    [
        ({"disabled": True}, 50057, "invalid_grant", None),
        ({"deleted": True}, 50034, "invalid_grant", "bad_token"),
        ({"mfa_required": True}, 50076, "invalid_grant", "basic_action"),
        ({"password_expired": True}, 50055, "invalid_grant", "user_password_expired"),
        ({"ca_blocked": True}, 53003, "invalid_grant", "message_only"),
    ],
)
def test_changes_to_a_person_affect_the_next_refresh(
    client: Client, sandbox: SandboxProcess, change: dict[str, bool], code: int, error: str, suberror: str | None
) -> None:
    token = grant(sandbox)
    sandbox.control.set_person(ADA, **change)
    answer = client.refresh(token)
    refused(answer, 400, error, code, suberror)
    if code == 53003:
        assert isinstance(answer.json()["claims"], str), "a string that holds JSON, as recorded"
    sandbox.control.set_person(ADA, **dict.fromkeys(change, False))
    assert client.refresh(token).status_code == 200


def test_a_grant_with_mfa_survives_an_mfa_requirement(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox, mfa=True)
    sandbox.control.set_person(ADA, mfa_required=True)
    assert client.refresh(token).status_code == 200


def test_revoking_ends_older_grants_but_no_newer_one(client: Client, sandbox: SandboxProcess) -> None:
    token = client.refresh(grant(sandbox)).json()["refresh_token"]
    sandbox.control.revoke_sessions(ADA)
    refused(client.refresh(token), 400, "invalid_grant", 50173, "bad_token")
    assert client.refresh(grant(sandbox)).status_code == 200


def test_a_token_expires_after_ninety_idle_days(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    sandbox.control.clock(89 * 86400)
    fresh = client.refresh(token).json()["refresh_token"]
    sandbox.control.clock(91 * 86400)
    refused(client.refresh(token), 400, "invalid_grant", 700082)
    assert client.refresh(fresh).status_code == 200


def test_the_sign_in_frequency_counts_from_the_sign_in(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox, age_s=7200)
    sandbox.control.set_person(ADA, sign_in_frequency_s=3600)
    answer = client.refresh(token)
    refused(answer, 400, "invalid_grant", 70043, "token_expired")
    assert "maximum allowed lifetime for this request is 3600." in answer.json()["error_description"]


def test_withdrawn_consent_is_65001_until_it_is_given_again(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    sandbox.control.withdraw_consent(seed.CONNECTIONS_APP, upn=ADA)
    refused(client.refresh(token), 400, "invalid_grant", 65001, "consent_required")
    sandbox.control.grant_consent(seed.CONNECTIONS_APP, scopes=MAIL)
    assert client.refresh(token).status_code == 200


def test_a_scope_without_consent_is_65001_and_default_is_what_has_it(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    refused(client.refresh(token, scope="Calendars.Read"), 400, "invalid_grant", 65001, "consent_required")
    answer = client.refresh(token, scope="https://graph.microsoft.com/.default offline_access").json()
    assert "https://graph.microsoft.com/Mail.Read" in answer["scope"]


def test_scopes_of_another_cloud_or_of_two_resources(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    refused(client.refresh(token, scope="https://graph.microsoft.us/Mail.Read"), 400, "invalid_resource", 500011)
    both = "https://graph.microsoft.us/Mail.Read https://graph.microsoft.com/Mail.Read"
    refused(client.refresh(token, scope=both), 400, "invalid_scope", 700022)


def test_assignment_can_be_required(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    sandbox.control.set_app(seed.CONNECTIONS_APP, assignment_required=True)
    refused(client.refresh(token), 400, "invalid_grant", 50105)
    sandbox.control.assign(seed.CONNECTIONS_APP, ADA, ["User"])
    assert client.refresh(token).status_code == 200


def test_invalid_refresh_tokens(client: Client, sandbox: SandboxProcess) -> None:
    refused(client.refresh("garbage"), 400, "invalid_grant", 9002313)
    refused(client.refresh(grant(sandbox) + "x"), 400, "invalid_grant", 9002313)
    foreign = sandbox.control.issue_grant(seed.MULTI_APP, ADA, MAIL)["refresh_tokens"][0]
    refused(client.refresh(foreign), 400, "invalid_grant", 70000)


def test_new_keys_invalidate_all_old_tokens(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    access = client.refresh(token).json()["access_token"]
    sandbox.control.rotate_keys()
    refused(client.refresh(token), 400, "invalid_grant", 9002313)
    assert client.graph("me/messages", access).status_code == 401


def test_spa_tokens_live_one_day(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox, age_s=90_000)
    sandbox.control.set_app(seed.CONNECTIONS_APP, platform="spa")
    refused(client.refresh(token), 400, "invalid_grant", 700084, "bad_token")


def test_wrong_secret_secret_id_expired_secret_and_none(client: Client, sandbox: SandboxProcess) -> None:
    token = grant(sandbox)
    for wrong in ("wrong", seed.CONNECTIONS_SECRET_ID):
        answer = client.refresh(token, client_secret=wrong)
        refused(answer, 401, "invalid_client", 7000215)
        assert "not the client secret ID" in answer.json()["error_description"]
    refused(client.refresh(token, client_secret=None), 401, "invalid_client", 7000218)
    sandbox.control.expire_secret(seed.CONNECTIONS_APP, seed.CONNECTIONS_SECRET_ID)
    refused(client.refresh(token), 401, "invalid_client", 7000222)
    new = sandbox.control.add_secret(seed.CONNECTIONS_APP)
    assert client.refresh(token, client_secret=new["value"]).status_code == 200
    archive = Client(client.url, seed.ARCHIVE_APP, seed.ARCHIVE_SECRET)
    refused(app_only(archive), 401, "invalid_client", 7000222)


def test_basic_authentication_works_too(sandbox: SandboxProcess) -> None:
    answer = requests.post(
        f"{sandbox.url}/{seed.CONTOSO}/oauth2/v2.0/token",
        data={"grant_type": "client_credentials", "scope": "https://graph.microsoft.com/.default"},
        auth=(seed.ROBOTS_APP, seed.ROBOTS_SECRET),
        timeout=20,
    )
    assert answer.status_code == 200


def test_a_public_client_must_not_send_a_secret(sandbox: SandboxProcess) -> None:
    token = sandbox.control.issue_grant(seed.DESKTOP_APP, ADA, MAIL)["refresh_tokens"][0]
    public = Client(sandbox.url, seed.DESKTOP_APP, "secret")
    refused(public.refresh(token), 401, "invalid_client", 700025)
    assert public.refresh(token, client_secret=None).status_code == 200


def certificate(days: int = 30) -> tuple[str, rsa.RSAPrivateKey, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "robots")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), key, certificate.fingerprint(hashes.SHA256())


def assertion(client: Client, key: rsa.RSAPrivateKey, thumbprint: str, algorithm: str = "PS256", **claims: Any) -> str:
    now = datetime.now(UTC)
    content = {
        "aud": f"{client.url}/{client.tenant}/oauth2/v2.0/token",
        "iss": client.client_id,
        "sub": client.client_id,
        "jti": str(uuid.uuid4()),
        "nbf": now,
        "exp": now + timedelta(minutes=10),
        **claims,
    }
    return jwt.encode(content, key, algorithm=algorithm, headers={"x5t#S256": thumbprint})


def with_assertion(client: Client, value: str) -> requests.Response:
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    return app_only(client, client_secret=None, client_assertion=value, client_assertion_type=kind)


def test_a_certificate_proves_the_app(sandbox: SandboxProcess) -> None:
    client = robots(sandbox)
    pem, key, _ = certificate()
    thumbprint = sandbox.control.add_certificate(seed.ROBOTS_APP, pem)["x5t#S256"]
    assert with_assertion(client, assertion(client, key, thumbprint)).status_code == 200
    assert with_assertion(client, assertion(client, key, thumbprint + "=", "RS256")).status_code == 200


def test_a_certificate_that_is_unknown_expired_or_not_the_signer_is_700027(sandbox: SandboxProcess) -> None:
    client = robots(sandbox)
    pem, key, _ = certificate()
    thumbprint = sandbox.control.add_certificate(seed.ROBOTS_APP, pem)["x5t#S256"]
    _, stranger, _ = certificate()
    refused(with_assertion(client, assertion(client, stranger, thumbprint)), 401, "invalid_client", 700027)
    refused(with_assertion(client, assertion(client, key, "bm9uZQ")), 401, "invalid_client", 700027)
    old_pem, old_key, _ = certificate(days=-1)
    old = sandbox.control.add_certificate(seed.ROBOTS_APP, old_pem)["x5t#S256"]
    answer = with_assertion(client, assertion(client, old_key, old))
    refused(answer, 401, "invalid_client", 700027)
    assert "expired" in answer.json()["error_description"]


def test_an_assertion_is_bound_to_time_audience_and_app(sandbox: SandboxProcess) -> None:
    client = robots(sandbox)
    pem, key, _ = certificate()
    thumbprint = sandbox.control.add_certificate(seed.ROBOTS_APP, pem)["x5t#S256"]
    late: dict[str, Any] = {"exp": datetime.now(UTC) - timedelta(minutes=20)}
    refused(with_assertion(client, assertion(client, key, thumbprint, **late)), 401, "invalid_client", 700024)
    other = {"aud": "https://login.microsoftonline.com/common/oauth2/v2.0/token"}
    refused(with_assertion(client, assertion(client, key, thumbprint, **other)), 401, "invalid_client", 700023)
    wrong = {"sub": seed.CONNECTIONS_APP}
    refused(with_assertion(client, assertion(client, key, thumbprint, **wrong)), 401, "invalid_client", 700027)


def test_an_app_only_token_carries_the_roles_an_admin_granted(sandbox: SandboxProcess) -> None:
    answer = app_only(robots(sandbox)).json()
    assert "refresh_token" not in answer
    assert "scope" not in answer
    claims = jwt.decode(answer["access_token"], options={"verify_signature": False})
    assert claims["roles"] == ["Mail.Read", "User.Read.All", "Application.Read.All"]
    assert "scp" not in claims


def test_a_token_without_roles_is_issued(client: Client) -> None:
    answer = app_only(client)
    assert answer.status_code == 200
    assert "roles" not in jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    graph = client.graph("users", answer.json()["access_token"])
    assert (graph.status_code, graph.json()["error"]["code"]) == (401, "NoPermissionsInAccessToken")


@pytest.mark.parametrize(
    ("fields", "status", "error", "code"),
    [
        ({"scope": "https://graph.microsoft.com/Mail.Read"}, 400, "invalid_scope", 1002012),
        ({"scope": "https://graph.microsoft.com/.default Mail.Read"}, 400, "invalid_scope", 1002012),
        ({"scope": "https://graph.microsoft.us/.default"}, 400, "invalid_resource", 500011),
        ({"scope": None}, 400, "invalid_request", 900144),
        ({"tenant": "consumers"}, 400, "invalid_request", 9002332),
        ({"tenant": "common"}, 400, "invalid_request", 50059),
        ({"tenant": "organizations"}, 400, "invalid_request", 50059),
        ({"tenant": seed.FABRIKAM}, 400, "unauthorized_client", 700016),
        ({"tenant": "nowhere.example"}, 400, "invalid_tenant", 90002),
        ({"tenant": "nowhere"}, 400, "invalid_request", 900023),
        ({"client_id": str(uuid.UUID(int=7))}, 400, "unauthorized_client", 700016),
        ({"grant_type": None}, 400, "invalid_request", 900144),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"resource": "https://graph.microsoft.com"}, 400, "invalid_request", 901002),
    ],
)
def test_invalid_app_only_requests(
    sandbox: SandboxProcess, fields: dict[str, Any], status: int, error: str, code: int
) -> None:
    refused(app_only(robots(sandbox), **fields), status, error, code)


def test_a_multi_tenant_app_needs_a_service_principal(sandbox: SandboxProcess) -> None:
    multi = Client(sandbox.url, seed.MULTI_APP, seed.MULTI_SECRET, tenant=seed.FABRIKAM)
    refused(app_only(multi), 401, "invalid_client", 7000229)
    sandbox.control.grant_consent(seed.MULTI_APP, tenant=seed.FABRIKAM, roles=MAIL)
    assert app_only(multi).status_code == 200


def test_disabled_and_deleted_apps(sandbox: SandboxProcess) -> None:
    client = robots(sandbox)
    sandbox.control.set_app(seed.ROBOTS_APP, disabled=True)
    refused(app_only(client), 400, "unauthorized_client", 7000112)
    sandbox.control.set_app(seed.ROBOTS_APP, disabled=False, deleted=True)
    refused(app_only(client), 400, "unauthorized_client", 700016)


def test_a_single_tenant_app_cannot_refresh_at_common(client: Client, sandbox: SandboxProcess) -> None:
    refused(client.refresh(grant(sandbox), tenant="common"), 400, "invalid_request", 50194)


def test_headers(sandbox: SandboxProcess) -> None:
    own = str(uuid.uuid4())
    answer = requests.post(
        f"{sandbox.url}/{seed.CONTOSO}/oauth2/v2.0/token", headers={"client-request-id": own}, timeout=20
    )
    assert answer.headers["client-request-id"] == own
    assert answer.json()["correlation_id"] == own
    assert answer.headers["x-ms-request-id"] == answer.json()["trace_id"]
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
