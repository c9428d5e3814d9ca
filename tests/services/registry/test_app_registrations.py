"""App registrations are tested at Microsoft, rejected and restored."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.errors import (
    AlreadyExists,
    InUse,
    InvalidInput,
    MicrosoftRefused,
    MicrosoftUnavailable,
    UnreadableSecret,
)
from connections.microsoft import certificates, token_endpoint
from connections.microsoft.classifier import classify
from connections.models import AppCredential, AppRegistration, AuditEvent, Tenant, User
from connections.services.registry import app_registrations, credential_checks, credentials
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

GOOD = credentials.NewSecret(seed.CONNECTIONS_SECRET)
WRONG = credentials.NewSecret("wrong~value")
ARCHIVED = credentials.NewSecret(seed.ARCHIVE_SECRET)


def register(alice: User, tenant: Tenant | None = None, **overrides: Any) -> AppRegistration:
    values: dict[str, Any] = {"name": "Mail", "client_id": seed.CONNECTIONS_APP, "credential": GOOD} | overrides
    return app_registrations.register(tenant or factories.make_tenant(), **values, actor=alice)


def shared(endpoint: str = "organizations") -> Tenant:
    return factories.make_tenant(name=endpoint, directory_id=endpoint, tid="")


def test_an_accepted_secret_makes_it_ready(alice: User, sandbox: Control) -> None:
    app = register(alice)
    assert app.is_ready
    credential = app.credentials.get()
    assert credential.verified_at
    assert credential.hint == seed.CONNECTIONS_SECRET[:3]
    assert seed.CONNECTIONS_SECRET not in str(list(AuditEvent.objects.values()))


@pytest.mark.parametrize(
    ("overrides", "field", "says"),
    [
        ({"credential": WRONG}, "credential", "Secret ID"),
        ({"client_id": seed.ARCHIVE_APP, "credential": ARCHIVED}, "credential", "expired"),
        ({"client_id": "99999999-0000-4000-8000-000000000000"}, "client_id", "700016"),
        ({"client_id": seed.DESKTOP_APP}, "client_id", "for the Web platform"),
    ],
    ids=["wrong secret", "expired secret", "unknown application", "public client"],
)
def test_common_mistakes_are_refused_with_advice(
    alice: User, sandbox: Control, overrides: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(MicrosoftRefused, match=says) as caught:
        register(alice, **overrides)
    assert caught.value.field == field
    assert not AppRegistration.objects.exists()
    assert not AuditEvent.objects.exists()


def test_the_directory_must_be_that_of_the_application(alice: User, sandbox: Control) -> None:
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    with pytest.raises(MicrosoftRefused, match="Compare the application"):
        register(alice, fabrikam)


def test_a_directory_microsoft_does_not_know_is_refused(alice: User, sandbox: Control) -> None:
    lost = factories.make_tenant(name="Lost", directory_id="lost.example", tid="")
    with pytest.raises(MicrosoftRefused, match="doesn't know this directory") as caught:
        register(alice, lost)
    assert caught.value.field == "tenant"


def test_a_multitenant_application_is_accepted_before_consent_installs_it(alice: User, sandbox: Control) -> None:
    fabrikam = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    multi = {"client_id": seed.MULTI_APP, "audience": "multi"}
    with pytest.raises(MicrosoftRefused, match="7000215"):
        register(alice, fabrikam, **multi, credential=WRONG)
    assert register(alice, fabrikam, **multi, credential=credentials.NewSecret(seed.MULTI_SECRET)).is_ready


@pytest.mark.parametrize("endpoint", ["common", "organizations"])
def test_a_shared_endpoint_tests_a_credential_without_a_token(alice: User, sandbox: Control, endpoint: str) -> None:
    tenant, multi = shared(endpoint), {"client_id": seed.MULTI_APP, "audience": "multi"}
    with pytest.raises(MicrosoftRefused, match="7000215"):
        register(alice, tenant, **multi, credential=WRONG)
    with pytest.raises(MicrosoftRefused, match="is single-tenant"):
        register(alice, tenant, audience="multi")  # multitenant here, but single-tenant in Entra
    assert register(alice, tenant, **multi, credential=credentials.NewSecret(seed.MULTI_SECRET)).is_ready


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"allows_app_only": True, "audience": "multi"}, "allows_app_only"),
        ({"audience": "single"}, "audience"),
        ({"allows_delegated": False}, "allows_delegated"),
    ],
)
def test_impossible_settings_are_refused(alice: User, sandbox: Control, overrides: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        register(alice, shared(), **overrides)
    assert caught.value.field == field
    assert sandbox.calls()["by_endpoint"].get("token", 0) == 0


@pytest.mark.parametrize(
    ("overrides", "field"), [({"name": "Other"}, "client_id"), ({"client_id": seed.MULTI_APP}, "name")]
)
def test_an_application_twice_is_refused(alice: User, sandbox: Control, overrides: dict[str, Any], field: str) -> None:
    app = register(alice)
    with pytest.raises(AlreadyExists) as caught:
        register(alice, app.tenant, **overrides)
    assert caught.value.field == field
    assert AppRegistration.objects.count() == 1


def test_during_an_outage_it_is_stored_only_with_allow_untried(alice: User, sandbox: Control) -> None:
    sandbox.weather("unavailable", "token")
    tenant = factories.make_tenant()
    with pytest.raises(MicrosoftUnavailable):
        register(alice, tenant)
    app = register(alice, tenant, allow_untried=True)
    assert not app.is_ready
    sandbox.weather("normal", "token")
    credential_checks.verify(app, actor=alice)
    assert factories.reloaded(app).is_ready


def test_a_refused_secret_is_not_stored_even_with_allow_untried(alice: User, sandbox: Control) -> None:
    with pytest.raises(MicrosoftRefused, match="7000215"):
        register(alice, credential=WRONG, allow_untried=True)


def test_a_generated_certificate_is_accepted_after_its_upload(alice: User, sandbox: Control) -> None:
    pair = certificates.generate("Robots", months=12, now=timezone.now())
    new = credentials.NewCertificate(pair, at_microsoft=False)
    app = register(alice, client_id=seed.ROBOTS_APP, credential=new)
    credential = app.credentials.get()
    assert credential_checks.awaits_upload(credential)
    assert sandbox.calls()["by_endpoint"].get("token", 0) == 0
    sandbox.add_certificate(seed.ROBOTS_APP, credential.certificate)
    credential_checks.verify(app, actor=alice, credential=credential)
    assert factories.reloaded(credential).verified_at
    assert app.is_ready


def test_one_accepted_credential_is_enough_and_the_other_is_marked_as_rejected(
    alice: User, sandbox: Control, app: AppRegistration
) -> None:
    stale = factories.make_secret(app, "stale~value")
    checks = credential_checks.verify(app, actor=alice)
    assert [check.verdict is None for check in checks] == [False, True]
    stale.refresh_from_db()
    app.refresh_from_db()
    assert stale.rejected_code == "AADSTS7000215"
    assert app.rejected_at is None
    order = [credential.pk for credential, _ in credential_checks.live_applications(app)]
    assert order[-1] == stale.pk


def test_the_registration_is_rejected_only_when_all_its_credentials_are(alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret="wrong~one")
    other = factories.make_secret(app, "wrong~two")
    with pytest.raises(MicrosoftRefused):
        credential_checks.verify(app, actor=alice, credential=other)
    assert factories.reloaded(app).rejected_at is None
    with pytest.raises(MicrosoftRefused):
        credential_checks.verify(app, actor=alice)
    assert factories.reloaded(app).rejected_code == "AADSTS7000215"
    assert app.canary_after


def test_a_test_needs_a_live_credential_and_an_outage_rejects_nothing(alice: User, sandbox: Control) -> None:
    with pytest.raises(InvalidInput, match="Add a credential"):
        credential_checks.verify(factories.make_app_registration(secret=None), actor=alice)
    app = factories.make_app_registration(name="Other", client_id=seed.ROBOTS_APP)
    sandbox.weather("unavailable", "token")
    with pytest.raises(MicrosoftUnavailable):
        credential_checks.verify(app, actor=alice)
    assert factories.reloaded(app).is_ready
    assert app.credentials.get().rejected_at is None


def test_a_certificate_waiting_for_upload_is_tested_only_when_named(
    alice: User, sandbox: Control, app: AppRegistration
) -> None:
    waiting = credentials.add_generated_certificate(app, actor=alice)
    credential_checks.verify(app, actor=alice)
    waiting.refresh_from_db()
    assert credential_checks.awaits_upload(waiting)
    with pytest.raises(MicrosoftRefused, match="Upload the public part"):
        credential_checks.verify(app, actor=alice, credential=waiting)


def expired() -> Any:
    body = '{"error":"invalid_client","error_codes":[7000222],"error_description":"AADSTS7000222: expired"}'
    return classify(where="token", status=401, headers={}, body=body)


def test_rejecting_twice_keeps_the_first_time_and_one_audit_event() -> None:
    app, now = factories.make_app_registration(), timezone.now()
    credential_checks.reject_app(app, expired(), now=now)
    later = now + timedelta(minutes=5)
    credential_checks.reject_app(app, expired(), now=later)
    assert (app.rejected_at, app.canary_after) == (now, later + timedelta(seconds=60))
    assert AuditEvent.objects.filter(action="app_registration.rejected").count() == 1


def test_restoring_clears_the_rejection_and_is_audited_once() -> None:
    app, now = factories.make_app_registration(), timezone.now()
    stale = AppRegistration.objects.get(pk=app.pk)
    credential_checks.reject_app(app, expired(), now=now)
    credential_checks.restore_app(stale, now=now)
    credential_checks.restore_app(app, now=now + timedelta(hours=1))
    app.refresh_from_db()
    assert (app.rejected_at, app.rejected_code, app.rejected_cause, app.canary_after) == (None, "", "", None)
    assert app.verified_at == now
    assert AuditEvent.objects.filter(action="app_registration.healed").count() == 1


def test_live_applications_have_the_decrypted_live_credentials(
    alice: User, sandbox: Control, app: AppRegistration
) -> None:
    credentials.retire(factories.make_secret(app, "retired~value"), actor=alice)
    [(credential, application)] = credential_checks.live_applications(app)
    assert application.credential == token_endpoint.ClientSecret(seed.CONNECTIONS_SECRET)
    assert application.directory_id == seed.CONTOSO
    assert credential.kind == AppCredential.Kind.SECRET


def test_nothing_is_sent_when_no_secret_can_be_decrypted(alice: User, sandbox: Control, app: AppRegistration) -> None:
    with database.cursor() as cursor:
        cursor.execute("UPDATE connections_appcredential SET secret = 'written with another key'")
    with pytest.raises(UnreadableSecret):
        credential_checks.verify(app, actor=alice)
    assert sandbox.calls()["by_endpoint"].get("token", 0) == 0
    assert factories.reloaded(app).is_ready


def test_an_environment_that_is_no_longer_configured_is_refused() -> None:
    app = factories.make_app_registration(tenant=factories.make_tenant(environment="atlantis"))
    with pytest.raises(InvalidInput, match=r"isn.t configured"):
        credential_checks.live_applications(app)


def change(app: AppRegistration, alice: User, **overrides: Any) -> None:
    kept = {"name": app.name, "audience": app.audience, "allows_delegated": True, "allows_app_only": True}
    values: dict[str, Any] = kept | {"default_capabilities": []} | overrides
    app_registrations.change(app, **values, actor=alice)


def test_changes_are_audited_with_old_and_new_values(alice: User, app: AppRegistration) -> None:
    change(app, alice, name="Mail", default_capabilities=["mail.read"])
    change(app, alice, name="Mail", default_capabilities=["mail.read"])
    assert factories.reloaded(app).name == "Mail"
    changes = AuditEvent.objects.get(action="app_registration.changed").changes
    assert changes == {"name": ["Contoso Connections", "Mail"], "default_capabilities": [[], ["mail.read"]]}


def test_an_authentication_type_in_use_cannot_be_turned_off(alice: User, app: AppRegistration) -> None:
    factories.make_connection(app_registration=app)
    with pytest.raises(InUse, match="Invoices") as caught:
        change(app, alice, allows_delegated=False)
    assert caught.value.field == "allows_delegated"
    assert app.allows_delegated
    change(app, alice, allows_app_only=False)
    assert not app.allows_app_only


def test_a_duplicate_name_is_refused_and_the_object_is_restored(alice: User, app: AppRegistration) -> None:
    factories.make_app_registration(name="Taken", client_id=seed.MULTI_APP)
    with pytest.raises(AlreadyExists) as caught:
        change(app, alice, name="Taken")
    assert caught.value.field == "name"
    assert app.name == "Contoso Connections"


def test_it_is_removed_with_its_credentials_unless_it_has_connections(alice: User, app: AppRegistration) -> None:
    connection = factories.make_connection(app_registration=app)
    with pytest.raises(InUse, match="Invoices"):
        app_registrations.remove(app, actor=alice)
    connection.delete()
    app_registrations.remove(app, actor=alice)
    assert not AppCredential.objects.exists()
    assert AuditEvent.objects.get(action="app_registration.removed").target_name == "Contoso Connections"
