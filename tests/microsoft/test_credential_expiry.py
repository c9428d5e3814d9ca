"""Graph's list of an application's credentials, in all its formats."""

import base64
import hashlib
import json
from datetime import UTC, datetime

import pytest

from connections.errors import MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import clouds, credential_expiry, token_endpoint
from connections.microsoft.credential_expiry import ListedCredential
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

END = "2027-05-01T12:30:00Z"
ENDS = datetime(2027, 5, 1, 12, 30, tzinfo=UTC)
CERTIFICATE = b"the certificate's DER form"
SHA1 = hashlib.sha1(CERTIFICATE, usedforsecurity=False).digest()
SHA256 = hashlib.sha256(CERTIFICATE).digest()


def read(**lists: object) -> credential_expiry.CredentialList:
    return credential_expiry._listing(json.dumps({"passwordCredentials": [], "keyCredentials": [], **lists}))


def key(**more: object) -> ListedCredential:
    [certificate] = read(keyCredentials=[{"endDateTime": END, **more}]).certificates
    return certificate


@pytest.mark.parametrize(
    ("identifier", "digest"),
    [
        (SHA1.hex().upper(), SHA1),
        (SHA1.hex(), SHA1),
        (base64.b64encode(SHA1).decode(), SHA1),
        (SHA256.hex(), SHA256),
        (base64.b64encode(SHA256).decode(), SHA256),
    ],
)
def test_a_thumbprint_is_hex_or_base64(identifier: str, digest: bytes) -> None:
    assert digest.hex().upper() in key(customKeyIdentifier=identifier).thumbprints


def test_the_certificate_itself_gives_its_thumbprint() -> None:
    assert key(key=base64.b64encode(CERTIFICATE).decode()).thumbprints == {SHA256.hex().upper()}


@pytest.mark.parametrize("identifier", [None, "", "   ", "!!no base64!!"])
def test_an_invalid_identifier_is_ignored(identifier: str | None) -> None:
    assert key(customKeyIdentifier=identifier, key=None).thumbprints == frozenset()


def test_a_very_old_secret_has_no_hint() -> None:
    credentials = read(passwordCredentials=[{"endDateTime": END, "hint": None}, {"endDateTime": END, "hint": "abc"}])
    assert credentials.secrets == (ListedCredential(ENDS), ListedCredential(ENDS, hint="abc"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "{}",
        '{"passwordCredentials": null, "keyCredentials": null}',
        '{"passwordCredentials": [{"endDateTime": "soon"}], "keyCredentials": []}',
        '{"passwordCredentials": [{"hint": "abc"}], "keyCredentials": []}',
        '{"passwordCredentials": ["?"], "keyCredentials": []}',
    ],
)
def test_other_content_is_no_list_of_credentials(text: str) -> None:
    with pytest.raises(MicrosoftUnavailable):
        credential_expiry._listing(text)


@pytest.mark.parametrize(
    ("roles", "may"),
    [((), False), (("Mail.Read",), False), (("Application.Read.All",), True), (("Directory.Read.All",), True)],
)
def test_larger_roles_may_read_it_too(roles: tuple[str, ...], may: bool) -> None:
    assert credential_expiry.may_read(roles) is may


def token(client_id: str, secret: str) -> str:
    credential = token_endpoint.ClientSecret(secret)
    application = token_endpoint.Application(clouds.cloud("sandbox"), factories.DIRECTORY_ID, client_id, credential)
    return token_endpoint.request_app_only_token(application).access_token


def robots_token() -> str:
    return token(factories.ROBOTS_CLIENT_ID, factories.ROBOTS_CLIENT_SECRET)


def test_it_reads_the_application_itself(sandbox: Control) -> None:
    credentials = credential_expiry.read(clouds.cloud("sandbox"), robots_token(), factories.ROBOTS_CLIENT_ID)
    assert [secret.hint for secret in credentials.secrets] == [seed.ROBOTS_SECRET[:3]]


def test_without_the_permission_it_is_refused(sandbox: Control) -> None:
    own = token(factories.CLIENT_ID, factories.CLIENT_SECRET)
    with pytest.raises(MicrosoftRefused) as refused:
        credential_expiry.read(clouds.cloud("sandbox"), own, factories.CLIENT_ID)
    assert not isinstance(refused.value, MicrosoftUnavailable)


def test_an_application_of_another_directory_is_not_found(sandbox: Control) -> None:
    with pytest.raises(MicrosoftRefused):
        credential_expiry.read(clouds.cloud("sandbox"), robots_token(), "00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize("weather", ["unavailable", "error", "broken_json", "empty_504", "throttle", "refuse"])
def test_an_outage_is_no_refusal(sandbox: Control, weather: str) -> None:
    robots = robots_token()
    sandbox.weather(weather, "graph")
    with pytest.raises(MicrosoftUnavailable):
        credential_expiry.read(clouds.cloud("sandbox"), robots, factories.ROBOTS_CLIENT_ID)
