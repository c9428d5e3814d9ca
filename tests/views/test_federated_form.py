"""The credential form recommends what never expires, if Microsoft can read the portal's keys."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from connections.forms.credentials import CredentialForm
from connections.models import AppCredential, User
from connections.services.registry import issuer
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("url", "possible"),
    [
        ("https://portal.contoso.com", True),
        ("https://20.1.2.3", True),
        ("http://portal.contoso.com", False),
        ("https://localhost:8443", False),
        ("https://portal", False),
        ("https://portal.internal", False),
        ("https://10.0.0.7", False),
        ("https://[fd00::1]", False),
    ],
)
def test_federated_is_recommended_only_with_a_public_address(settings: Any, url: str, possible: bool) -> None:
    settings.PORTAL_URL, settings.MICROSOFT_SANDBOX_URL = url, ""
    form = CredentialForm(environment="global")
    kinds = [kind for kind, _ in form.fields["kind"].choices]  # type: ignore[attr-defined]
    assert ("federated" in kinds) is possible
    assert (form.fields["kind"].initial == "federated") is possible
    assert (url in form.federated_problem) is not possible
    assert issuer.unavailable_reason("sandbox") == ""


def test_the_page_says_why_it_is_not_possible(settings: Any, signed_in: Callable[[User], Client], alice: User) -> None:
    settings.PORTAL_URL, settings.MICROSOFT_SANDBOX_URL = "http://localhost:8000", ""
    app = factories.make_app_registration(tenant=factories.make_tenant(environment="global"))
    page = signed_in(alice).get(f"/apps/{app.pk}/credentials/add/").content.decode()
    assert "PORTAL_URL is http://localhost:8000" in page
    answer = signed_in(alice).post(f"/apps/{app.pk}/credentials/add/", {"kind": "federated"})
    assert answer.status_code in (200, 422)
    assert not app.credentials.filter(kind="federated").exists()


def test_the_script_creates_the_trust(settings: Any, signed_in: Callable[[User], Client], alice: User) -> None:
    settings.PORTAL_URL = "https://portal.contoso.com"
    app = factories.make_app_registration(tenant=factories.make_tenant(environment="usgov_l4"), secret=None)
    browser = signed_in(alice)
    assert browser.post(f"/apps/{app.pk}/credentials/add/", {"kind": "federated"}).status_code == 302
    credential = AppCredential.objects.get()
    script = browser.get(f"/apps/{app.pk}/script/").content.decode()
    assert "az ad app federated-credential create" in script
    assert credential.subject in script
    assert "api://AzureADTokenExchangeUSGov" in script


def test_a_token_file_is_offered_only_if_there_is_one(settings: Any) -> None:
    settings.FEDERATED_TOKEN_PATH = ""
    assert "token_file" not in dict(CredentialForm().fields["kind"].choices)  # type: ignore[attr-defined]
    settings.FEDERATED_TOKEN_PATH = "/run/token"
    assert "token_file" in dict(CredentialForm().fields["kind"].choices)  # type: ignore[attr-defined]


def test_a_federated_credential_has_no_expiration_date_to_enter(
    signed_in: Callable[[User], Client], alice: User
) -> None:
    app = factories.make_app_registration(secret=None)
    page = signed_in(alice).post(f"/apps/{app.pk}/credentials/add/", {"kind": "federated"}, follow=True)
    assert "Never expires" in page.content.decode()
    assert "Expires on (see Entra)" not in page.content.decode()


def test_a_secret_is_not_dropped_when_another_credential_is_chosen(
    signed_in: Callable[[User], Client], alice: User
) -> None:
    app = factories.make_app_registration(secret=None)
    sent = {"kind": "federated", "secret": "typed~by~mistake"}
    answer = signed_in(alice).post(f"/apps/{app.pk}/credentials/add/", sent)
    assert answer.status_code in (200, 422)
    assert "You entered a client secret, but chose another credential." in answer.content.decode()
    assert "typed~by~mistake" not in answer.content.decode()
    assert not app.credentials.exists()
