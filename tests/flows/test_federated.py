"""An app registration without any secret: Microsoft trusts the tokens that the portal signs."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.microsoft import federation
from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, Incident, IssuerKey, User
from connections.services.registry import credential_checks, credentials, issuer
from connections.services.tokens import scheduler
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet

pytestmark = pytest.mark.django_db(transaction=True)

DELEGATED = {"kind": "authorization_code", "name": "Invoices", "chosen": ["mail.read"]}
APP_ONLY = {"kind": "client_credentials", "name": "Robot", "chosen": ["mail.read"]}


def trust(sandbox: Control, credential: AppCredential, **more: Any) -> dict[str, Any]:
    """Create the federated credential at Microsoft as the page says."""
    wanted = issuer.trust_of(credential)
    values = {"issuer": wanted.issuer, "subject": wanted.subject, "audience": wanted.audience}
    return sandbox.add_federated_credential(factories.CLIENT_ID, **(values | more))


def federated_app(alice: User) -> tuple[AppRegistration, AppCredential]:
    app = factories.make_app_registration(secret=None, verified_at=None)
    return app, credentials.add_federated(app, actor=alice)


def sweep(**due: Any) -> Any:
    Connection.objects.filter(**due).update(refresh_after=timezone.now())
    return scheduler.sweep(now=timezone.now())


def test_it_registers_connects_both_ways_and_refreshes_while_the_key_rotates(
    sandbox: Control, portal_url: str, person: Meet, alice: User, bob: User
) -> None:
    tenant = factories.make_tenant()
    admin = person(alice)
    form = {
        "tenant": tenant.pk,
        "name": "Secretless",
        "client_id": factories.CLIENT_ID,
        "audience": "single",
        "allows_delegated": "on",
        "allows_app_only": "on",
        "kind": "federated",
    }
    assert admin.post("/apps/add/", **form).status_code == 302
    app = AppRegistration.objects.get()
    credential = app.credentials.get()
    page = admin.get(f"/apps/{app.pk}/").content.decode()
    assert portal_url in page
    assert credential.subject in page
    assert "api://AzureADTokenExchange" in page

    trust(sandbox, credential)
    assert admin.post(f"/apps/{app.pk}/verify/").status_code == 302
    assert factories.reloaded(app).is_ready
    member = person(bob)
    member.connect(member.post(f"/connect/several/?app={app.pk}", **DELEGATED), factories.ADA)
    sandbox.set_app(factories.CLIENT_ID, application=["Mail.Read"])
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read"])
    robot = admin.post(f"/connect/several/?app={app.pk}", **APP_ONLY)
    assert robot.status_code == 302
    assert Connection.objects.filter(status="active").count() == 2

    first = IssuerKey.objects.get()
    start = timezone.now()
    for days in (0, 89, 91, 92, 94, 96):
        now = start + timedelta(days=days)
        issuer.rotate_due(now=now)
        if days == 91:
            assert IssuerKey.objects.count() == 2
            assert issuer.signing_key(now=now).key_id == first.key_id
    assert not IssuerKey.objects.filter(pk=first.pk).exists()
    IssuerKey.objects.update(use_after=start)
    sandbox.forget_published_keys()
    summary = sweep()
    assert (summary.claimed, summary.renewed, summary.flagged, summary.waiting) == (2, 2, 0, 0)
    assert not Incident.objects.exists()
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert {"issuer_key.added", "issuer_key.removed", "credential.added"} <= actions


def test_a_new_key_is_published_before_it_signs(sandbox: Control, portal_url: str, alice: User) -> None:
    app, credential = federated_app(alice)
    trust(sandbox, credential)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(refresh_token=grant["refresh_tokens"][0], app_registration=app)
    assert sweep().renewed == 1
    IssuerKey.objects.update(use_after=timezone.now() - issuer.ROTATE_AFTER)
    issuer.rotate_due(now=timezone.now())
    # Microsoft still has the keys it read before, and the new key is not used yet.
    assert sweep().renewed == 1
    keys = issuer.published_keys()["keys"]
    assert len(keys) == 2
    assert all(set(key) == {"e", "kty", "n", "use", "alg", "kid"} for key in keys)


def test_a_trust_that_microsoft_does_not_know_yet_waits_instead_of_flagging(
    sandbox: Control, portal_url: str, alice: User
) -> None:
    app, credential = federated_app(alice)
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(refresh_token=grant["refresh_tokens"][0], app_registration=app)
    for _ in range(5):
        summary = sweep()
        assert (summary.renewed, summary.flagged) == (0, 0)
    assert not Incident.objects.exists()
    assert factories.reloaded(app).rejected_at is None
    assert factories.reloaded(credential).rejected_at is None

    trust(sandbox, credential)
    assert sweep().renewed == 1
    assert factories.reloaded(credential).verified_at is not None


def test_it_becomes_ready_by_itself_once_the_trust_exists(sandbox: Control, portal_url: str, alice: User) -> None:
    app, credential = federated_app(alice)
    credential_checks.try_waiting(now=timezone.now())
    assert not factories.reloaded(app).is_ready
    trust(sandbox, credential)
    credential_checks.try_waiting(now=timezone.now())
    assert factories.reloaded(app).is_ready
    assert factories.reloaded(credential).verified_at is not None


def test_after_ten_minutes_an_unknown_trust_is_an_incident_and_heals_by_itself(
    sandbox: Control, portal_url: str, alice: User
) -> None:
    app, credential = federated_app(alice)
    AppCredential.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(refresh_token=grant["refresh_tokens"][0], app_registration=app)
    sweep()
    incident = Incident.objects.get()
    assert (incident.kind, incident.code) == ("app_registration", "AADSTS70021")
    trust(sandbox, credential)
    AppRegistration.objects.update(canary_after=timezone.now())
    assert scheduler.sweep(now=timezone.now()).renewed == 1
    assert not Incident.objects.filter(closed_at=None).exists()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"issuer": "http://localhost:1"}, "AADSTS700211"),
        ({"audience": "api://AzureADTokenExchangeChina"}, "AADSTS700212"),
        ({"subject": "app-registration:another"}, "AADSTS700213"),
    ],
)
def test_microsoft_compares_issuer_subject_and_audience_exactly(
    sandbox: Control, portal_url: str, alice: User, wrong: dict[str, str], code: str
) -> None:
    app, credential = federated_app(alice)
    AppCredential.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    trust(sandbox, credential, **wrong)
    factories.make_app_only_connection(app_registration=app)
    sweep()
    assert Incident.objects.get().code == code


def test_an_app_registration_cannot_use_the_trust_of_another(sandbox: Control, portal_url: str, alice: User) -> None:
    app, credential = federated_app(alice)
    trust(sandbox, credential)
    credentials.retire(credential, actor=alice)
    again = credentials.add_federated(app, actor=alice)
    assert again.subject != credential.subject
    AppCredential.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    factories.make_app_only_connection(app_registration=app)
    sweep()
    assert Incident.objects.get().code == "AADSTS700213"


def test_the_issuer_is_portal_url_whatever_the_host(client: Client, settings: Any, db: None) -> None:
    settings.PORTAL_URL = "https://portal.example.org"
    settings.ALLOWED_HOSTS = ["portal.example.org", "other.example.org"]
    answer = client.get("/.well-known/openid-configuration", headers={"Host": "other.example.org"})
    assert answer.json()["issuer"] == "https://portal.example.org"
    assert answer.json()["jwks_uri"] == "https://portal.example.org/.well-known/jwks.json"
    assert answer["Cache-Control"] == "public, max-age=3600"
    assert client.get("/.well-known/jwks.json", headers={"Host": "evil.example.org"}).status_code == 400
    assert client.get("/.well-known/jwks.json", headers={"Host": "portal.example.org"}).json() == {"keys": []}
    assert not IssuerKey.objects.exists()


def test_a_token_file_is_read_at_each_use(
    sandbox: Control, portal_url: str, alice: User, settings: Any, tmp_path: Any
) -> None:
    app, own = federated_app(alice)
    path = tmp_path / "token"
    settings.FEDERATED_TOKEN_PATH = str(path)

    def write(subject: str) -> None:
        key = issuer.signing_key(now=timezone.now())
        audience = "api://AzureADTokenExchange"
        path.write_text(federation.assertion(key, issuer=portal_url, subject=subject, audience=audience) + "\n")

    credential = credentials.add_federated(app, actor=alice, source="file")
    credentials.retire(own, actor=alice)
    AppCredential.objects.update(created_at=timezone.now() - timedelta(minutes=11))
    sandbox.add_federated_credential(
        factories.CLIENT_ID, issuer=portal_url, subject="system:serviceaccount", audience="api://AzureADTokenExchange"
    )
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    factories.make_connection(refresh_token=grant["refresh_tokens"][0], app_registration=app)
    path.write_text("no token")
    sweep()
    incident = Incident.objects.get()
    assert incident.code == "token-file"
    assert "no token" not in incident.cause
    write("system:serviceaccount")
    AppRegistration.objects.update(canary_after=timezone.now())
    assert scheduler.sweep(now=timezone.now()).renewed == 1
    path.write_text("x" * 20_000)
    sweep()
    assert Incident.objects.get(closed_at=None).code == "token-file"
    assert factories.reloaded(credential).rejected_at is not None
