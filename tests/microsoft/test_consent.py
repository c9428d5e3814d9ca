"""Links to Microsoft's admin consent page, and its callback."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from connections.microsoft import consent
from connections.microsoft.clouds import CLOUDS

CLOUD = CLOUDS["global"]
PARAMETERS = {"client_id": "id", "redirect_uri": "https://portal.example/consent/callback/", "state": "s"}


def link(**overrides: object) -> tuple[str, dict[str, str]]:
    directory = str(overrides.pop("directory", "contoso.com"))
    url = consent.consent_url(CLOUD, directory, **(PARAMETERS | overrides))  # type: ignore[arg-type]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}", dict(parse_qsl(parts.query, strict_parsing=True))


def test_it_asks_for_everything_that_is_declared() -> None:
    page, query = link()
    assert page == "https://login.microsoftonline.com/contoso.com/v2.0/adminconsent"
    assert query == {**PARAMETERS, "scope": "https://graph.microsoft.com/.default"}


def test_named_scopes_are_qualified() -> None:
    assert link(scopes=["openid", "Mail.Read"])[1]["scope"] == "openid https://graph.microsoft.com/Mail.Read"


def test_the_older_style_has_no_scope() -> None:
    page, query = link(style=consent.V1)
    assert page.endswith("/contoso.com/adminconsent")
    assert "scope" not in query


@pytest.mark.parametrize("shared", ["common", "consumers"])
def test_a_shared_endpoint_becomes_organizations(shared: str) -> None:
    assert "/organizations/v2.0/adminconsent" in link(directory=shared)[0]


@pytest.mark.parametrize(
    ("query", "granted", "cancelled"),
    [
        ("admin_consent=True&tenant=t&scope=x&state=12345", True, False),
        ("admin_consent=True&tenant=t&state=12345", True, False),
        # Both documented ways to cancel. The first one has admin_consent=True even so.
        (
            "admin_consent=True&error=consent_required&error_description=AADSTS65004%3a+The+resource+owner+or+"
            "authorization+server+denied+the+request.&state=12345",
            False,
            True,
        ),
        ("error=permission_denied&error_description=The+admin+canceled+the+request&state=12345", False, True),
        ("error=access_denied&error_subcode=cancel&state=12345", False, True),
        ("admin_consent=True&error=access_denied&error_description=AADSTS90094%3a+x&state=12345", False, False),
        ("admin_consent=True&error=server_error&state=12345", False, False),
        ("admin_consent=True&error=&state=12345", False, False),
        ("admin_consent=False&state=12345", False, False),
        ("state=12345", False, False),
    ],
)
def test_success_means_admin_consent_and_no_error(query: str, granted: bool, cancelled: bool) -> None:
    answer = consent.read_callback(query)
    assert (answer.state, answer.granted, answer.cancelled) == ("12345", granted, cancelled)


def test_a_callback_without_anything_is_a_failure_in_words() -> None:
    answer = consent.read_callback("")
    assert (answer.state, answer.granted) == ("", False)
    assert answer.verdict.cause
