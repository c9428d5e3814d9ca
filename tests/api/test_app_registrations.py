"""App registrations, credentials and consent requests."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.microsoft import certificates
from connections.models import AppCredential, AppRegistration, ConsentRequest, User
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import NOT_FOUND, Program, problem, values, wrong_fields

LATER = (timezone.now() + timedelta(days=90)).isoformat()


def secret(**more: Any) -> dict[str, Any]:
    return {"kind": "secret", "secret": factories.CLIENT_SECRET, "expires_at": LATER} | more


def body(**more: Any) -> dict[str, Any]:
    tenant = factories.make_tenant()
    return {"tenant_id": tenant.pk, "name": "Contoso Connections", "client_id": factories.CLIENT_ID, **more}


def test_an_app_registration_is_registered_changed_and_removed(alice: User, sandbox: Control) -> None:
    program = Program(alice)
    created = program.post("app-registrations", body(credential=secret(), allows_app_only=True))
    assert (created.status_code, created.json()["is_ready"]) == (201, True)
    assert factories.CLIENT_SECRET not in created.content.decode()
    path = created["Location"].removeprefix("/api/v1/")
    changed = program.patch(path, {"default_capabilities": ["mail.send", "mail.read"]}, if_match=created["ETag"])
    assert changed.json()["default_capabilities"] == ["mail.read", "mail.send"]
    assert program.delete(path, if_match=created["ETag"]).status_code == 412
    assert program.post(f"{path}/verify").json()["is_ready"] is True
    assert program.delete(path).status_code == 204
    assert problem(program.get(path)) == NOT_FOUND


def test_a_credential_that_microsoft_rejects_stores_nothing(alice: User, sandbox: Control) -> None:
    answer = Program(alice).post("app-registrations", body(credential=secret(secret="wrong-secret-of-somebody")))
    assert answer.status_code == 409
    assert answer.json()["detail"]
    assert "wrong-secret" not in answer.content.decode()
    assert not AppRegistration.objects.exists()


def test_credentials_are_added_listed_and_retired_and_never_shown(alice: User, sandbox: Control) -> None:
    app, program = factories.make_app_registration(), Program(alice)
    path = f"app-registrations/{app.pk}/credentials"
    created = program.post(path, secret(label="Next"), idempotency_key="one")
    again = program.post(path, secret(label="Next"), idempotency_key="one")
    assert (created.status_code, created.json()["label"], again.json()) == (201, "Next", created.json())
    generated = program.post(path, {"kind": "generate", "months": 6}).json()
    assert "BEGIN CERTIFICATE" in generated["certificate"]
    assert "PRIVATE" not in str(generated)
    listed = program.get(path)
    assert len(listed.json()["items"]) == 3
    assert factories.CLIENT_SECRET not in listed.content.decode()
    for status in (204, 404):
        assert program.delete(f"{path}/{created.json()['id']}").status_code == status
    assert AppCredential.objects.get(pk=created.json()["id"]).secret is None


def test_a_certificate_is_uploaded_as_pem_or_pfx(alice: User, sandbox: Control) -> None:
    app, program = factories.make_app_registration(), Program(alice)
    pair = certificates.generate("Mine", months=6, now=timezone.now())
    path = f"app-registrations/{app.pk}/credentials"
    sandbox.weather("unavailable")
    upload = {"kind": "upload", "certificate": pair.certificate + pair.private_key, "allow_untried": True}
    assert program.post(path, upload).json()["thumbprint"] == pair.thumbprint
    assert wrong_fields(program.post(path, upload | {"certificate": "not base64!"})) == {"certificate"}
    assert wrong_fields(program.post(path, upload | {"certificate": "bm9uZQ=="})) == {"certificate"}


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"kind": "secret"}, "secret"),
        ({"kind": "secret", "secret": seed.CONTOSO, "expires_at": LATER}, "secret"),
        ({"kind": "secret", "secret": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"kind": "generate"}, "months"),
        ({"kind": "generate", "months": 0}, "months"),
        ({"kind": "generate", "months": 10**9}, "months"),
        ({"kind": "upload"}, "certificate"),
        ({"kind": "magic"}, "kind"),
    ],
)
def test_an_invalid_credential_is_refused_with_its_field(
    alice: User, entry: dict[str, Any], field: str, app: AppRegistration
) -> None:
    assert wrong_fields(Program(alice).post(f"app-registrations/{app.pk}/credentials", entry)) == {field}


def test_errors_in_the_first_credential_name_its_fields(alice: User) -> None:
    answer = Program(alice).post("app-registrations", body(credential={"kind": "secret"}))
    assert wrong_fields(answer) == {"credential.secret"}


def test_a_credential_is_found_only_under_its_own_registration(alice: User) -> None:
    own = factories.make_app_registration()
    foreign = factories.make_app_registration(name="Other", client_id=seed.ROBOTS_APP).credentials.get()
    assert problem(Program(alice).delete(f"app-registrations/{own.pk}/credentials/{foreign.pk}")) == NOT_FOUND


def test_an_authentication_type_in_use_cannot_be_switched_off(alice: User) -> None:
    connection = factories.make_connection()
    path = f"app-registrations/{connection.app_registration_id}"
    assert problem(Program(alice).patch(path, {"allows_delegated": False})) == (409, "still_in_use")
    assert problem(Program(alice).delete(path)) == (409, "still_in_use")


def test_members_read_what_they_need_to_connect(bob: User, app: AppRegistration) -> None:
    seen = Program(bob).get(f"app-registrations/{app.pk}").json()
    assert (seen["name"], seen["allows_delegated"], seen["client_id"]) == ("Contoso Connections", True, None)
    apps = Program(bob).get("app-registrations", allows="app_only", q="contoso", tenant_id=app.tenant_id)
    assert values(apps, "id") == [app.pk]


def test_consent_is_requested_and_approved(alice: User, bob: User, sandbox: Control) -> None:
    connection = factories.make_connection(status="pending", connected_at=None, granted_scopes="", refresh_token=None)
    created = Program(bob).post("consent-requests", {"connection_id": connection.pk, "reason": "For invoices."})
    assert (created.status_code, created.json()["state"]) == (201, "asked")
    assert created.json()["permissions"] == ["Mail.Read"]
    path = f"consent-requests/{created.json()['id']}"
    program = Program(alice)
    assert values(program.get("consent-requests", state="asked"), "id") == [created.json()["id"]]
    for _ in range(2):
        approved = program.post(f"{path}/approve").json()
        assert approved["state"] == "approved"
        assert approved["consent_link"].startswith(sandbox.base_url)
    assert problem(program.post(f"{path}/decline", {"reason": "No.", "seen": "asked"})) == (409, "decided_meanwhile")


def test_consent_is_declined_with_a_reason(alice: User, bob: User) -> None:
    consent_request = factories.make_consent_request(factories.make_connection())
    program, path = Program(alice), f"consent-requests/{consent_request.pk}/decline"
    assert wrong_fields(program.post(path, {})) == {"reason"}
    assert program.post(path, {"reason": "Not now."}).json()["answer"] == "Not now."
    assert ConsentRequest.objects.get().state == "declined"
