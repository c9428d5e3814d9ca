"""Rotating a credential that is in use: nothing fails, no connection is flagged, and the page shows the progress."""

from datetime import timedelta

from django.utils import timezone

from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, Incident, User
from connections.services.registry import credentials
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet

FORM = {"kind": "authorization_code", "name": "Invoices", "chosen": ["mail.read"]}


def three_connections(sandbox: Control) -> None:
    grants = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"], count=3)
    for number, token in enumerate(grants["refresh_tokens"]):
        factories.make_connection(name=f"Inbox {number}", refresh_token=token)


def sweep_all() -> int:
    """Refresh every connection as if it were due, and return how many were renewed."""
    now = timezone.now()
    Connection.objects.update(refresh_after=now)
    summary = scheduler.sweep(now=now)
    assert (summary.claimed, summary.flagged, summary.waiting) == (3, 0, 0)
    return summary.renewed


def nothing_happened() -> None:
    """Assert that no connection changed, no app registration was rejected and no incident was opened."""
    assert set(Connection.objects.values_list("status", "trouble_count", "suspected_code")) == {("active", 0, "")}
    assert not Incident.objects.exists()
    assert not AuditEvent.objects.filter(action__in=("connection.flagged", "app_registration.rejected")).exists()


def test_rotating_a_secret_fails_no_refresh_and_flags_nothing(
    person: Meet, alice: User, sandbox: Control, app: AppRegistration
) -> None:
    old = app.credentials.get()
    three_connections(sandbox)
    admin = person(alice)
    assert sweep_all() == 3

    value = sandbox.add_secret(factories.CLIENT_ID)["value"]
    admin.post(f"/apps/{app.pk}/credentials/add/", kind="secret", secret=value, expires_at="2099-01-31", months="12")
    assert sweep_all() == 3
    assert "No longer needed" in admin.get(f"/apps/{app.pk}/").content.decode()

    retire = f"/apps/{app.pk}/credentials/{old.pk}/retire/"
    assert "Connections keep working" in admin.get(retire).content.decode()
    admin.post(retire)
    assert sweep_all() == 3
    sandbox.remove_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    assert sweep_all() == 3
    nothing_happened()


def test_a_secret_deleted_at_microsoft_is_skipped(
    person: Meet, alice: User, sandbox: Control, app: AppRegistration
) -> None:
    three_connections(sandbox)
    new = sandbox.add_secret(factories.CLIENT_ID)
    factories.make_secret(app, new["value"], label="Next secret")
    assert sweep_all() == 3

    # The newest secret is deleted in Entra by mistake.
    sandbox.remove_secret(factories.CLIENT_ID, new["id"])
    assert sweep_all() == 3
    nothing_happened()
    assert list(AppCredential.objects.exclude(rejected_at=None).values_list("label", flat=True)) == ["Next secret"]
    page = person(alice).get(f"/apps/{app.pk}/").content.decode()
    assert "Microsoft rejects Next secret" in page
    assert "so the portal uses Test secret" in page


def test_the_next_certificate_is_made_ahead_uploaded_tried_and_then_comes_first(
    person: Meet, alice: User, sandbox: Control, app: AppRegistration
) -> None:
    three_connections(sandbox)
    admin = person(alice)
    for _ in range(2):  # a second click does not create another one
        admin.post(f"/apps/{app.pk}/credentials/next/")
    certificate = app.credentials.get(kind="certificate")
    assert sweep_all() == 3  # with the secret, because the certificate is not uploaded yet
    assert "Upload" in admin.get(f"/apps/{app.pk}/").content.decode()

    sandbox.add_certificate(factories.CLIENT_ID, certificate.certificate)
    admin.post(f"/apps/{app.pk}/verify/", credential=certificate.pk)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    assert sweep_all() == 3
    nothing_happened()
    assert not app.credentials.exclude(rejected_at=None).exists()  # the expired secret was not tried


def test_the_second_sign_in_uses_the_next_credential(
    person: Meet, alice: User, bob: User, app: AppRegistration
) -> None:
    factories.make_secret(app, "dead~secret", label="Dead secret")
    somebody = person(bob)
    answer = somebody.connect(somebody.post(f"/connect/several/?app={app.pk}", **FORM), factories.ADA)
    assert "Start again" in answer.content.decode()
    connection = Connection.objects.get()
    assert (connection.status, connection.status_who) == (Connection.Status.PENDING, Connection.Who.OWNER)
    assert app.credentials.get(label="Dead secret").rejected_code == "AADSTS7000215"
    assert factories.reloaded(app).rejected_at is None
    assert not Incident.objects.exists()

    again = person(bob)
    again.connect(again.post(f"/connections/{connection.pk}/sign-in/"), factories.ADA)
    assert factories.reloaded(connection).status == Connection.Status.ACTIVE


def test_a_sign_in_with_the_only_credential_rejected_flags_the_app_registration(person: Meet, bob: User) -> None:
    app = factories.make_app_registration(secret="dead~secret")
    credentials.next_certificate(app, actor=bob)  # not uploaded, so not usable
    somebody = person(bob)
    somebody.connect(somebody.post(f"/connect/several/?app={app.pk}", **FORM), factories.ADA)
    assert AppRegistration.objects.get().rejected_code == "AADSTS7000215"


def test_a_new_credential_clears_the_rejection(alice: User, sandbox: Control, app: AppRegistration) -> None:
    three_connections(sandbox)
    sandbox.expire_secret(factories.CLIENT_ID, seed.CONNECTIONS_SECRET_ID)
    now = timezone.now()
    Connection.objects.update(refresh_after=now)
    scheduler.sweep(now=now)
    assert factories.reloaded(app).rejected_at is not None
    value = sandbox.add_secret(factories.CLIENT_ID)["value"]
    credentials.add(app, credentials.NewSecret(value, now + timedelta(days=90)), actor=alice)
    assert sweep_all() == 3
    assert not Incident.objects.filter(closed_at=None).exists()
