"""The migration to one app registration for many tenants: those with the same client ID become one."""

from collections.abc import Iterator

import pytest
from django.db import connection as database
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from connections.models import AppConsent, AppCredential, AppRegistration, AuditEvent, Connection, Incident, Policy
from connections.services.operations import secret_check
from portal.sandbox import seed
from tests import factories

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
BEFORE = ("connections", "0011_key_issuers")


def migrate(*targets: tuple[str, str | None]) -> None:
    MigrationExecutor(database).migrate(list(targets))


@pytest.fixture
def newest() -> Iterator[None]:
    """Put the tables back as they should be, whatever happens."""
    yield
    migrate(*MigrationExecutor(database).loader.graph.leaf_nodes())


def make_same() -> tuple[Connection, Connection]:
    """Connections through two app registrations, in two tenants, that will have the same client ID."""
    alice = factories.make_person("alice")
    first = factories.make_app_only_connection(owner=alice, name="First")
    tenant = factories.make_tenant(name="Fabrikam", directory_id=seed.FABRIKAM, tid=seed.FABRIKAM)
    app = factories.make_app_registration(
        name="Copy", tenant=tenant, client_id=seed.MULTI_APP, secret="the-copied-secret"
    )
    second = factories.make_app_only_connection(owner=alice, name="Second", app_registration=app)
    AppRegistration.objects.filter(pk=app.pk).update(rejected_at=timezone.now(), rejected_code="AADSTS7000112")
    Incident.objects.create(
        kind="app_registration", key=f"app:{app.pk}", title="Microsoft rejects Copy", app_registration=app,
        opened_at=timezone.now(), seen_at=timezone.now(),
    )  # fmt: skip
    Policy.objects.create(app_registration=first.app_registration, rules={"longest_share_days": 30})
    Policy.objects.create(app_registration=app, rules={"share_app_only": False, "longest_share_days": 90})
    return first, second


def refuse_to_go_back(first: Connection, second: Connection) -> None:
    """Check that an app registration that is used in another tenant keeps the new tables."""
    consent = factories.make_consent(first.app_registration, second.tenant)
    used = Connection.objects.filter(pk=first.pk)
    used.update(tenant=second.tenant, app_consent=consent)
    with pytest.raises(RuntimeError, match="no place in the old tables"):
        migrate(BEFORE)
    migrate(*MigrationExecutor(database).loader.graph.leaf_nodes())
    used.update(tenant=first.tenant, app_consent=first.app_consent)
    consent.delete()


def test_app_registrations_with_the_same_client_id_become_one(newest: None) -> None:
    first, second = make_same()
    refuse_to_go_back(first, second)
    migrate(BEFORE)
    with database.cursor() as cursor:
        cursor.execute(
            "UPDATE connections_appregistration SET client_id = %s WHERE id = %s",
            [first.app_registration.client_id, second.app_registration_id],
        )
    migrate(*MigrationExecutor(database).loader.graph.leaf_nodes())

    app = AppRegistration.objects.get()
    assert (app.pk, app.audience, app.environment) == (first.app_registration_id, "multi", "sandbox")
    created = list(Connection.objects.order_by("name").select_related("tenant", "app_consent__tenant"))
    assert [connection.tenant.name for connection in created] == ["Contoso", "Fabrikam"]
    assert [connection.app_consent.tenant for connection in created] == [connection.tenant for connection in created]
    assert {credential.secret for credential in AppCredential.objects.all()} == {
        factories.CLIENT_SECRET,
        "the-copied-secret",
    }
    assert app.rejected_at is None
    assert AppConsent.objects.get(tenant__name="Fabrikam").rejected_code == "AADSTS7000112"
    assert AppConsent.objects.get(tenant__name="Contoso").rejected_at is None
    assert Incident.objects.get().closed_at is not None
    rules = Policy.objects.get().rules
    assert (rules["share_app_only"], rules["longest_share_days"]) == (False, 30)
    event = AuditEvent.objects.get(action="app_registration.merged")
    assert event.changes["merged"] == f"Copy ({second.app_registration_id})"
    assert "Test secret of Copy" in event.changes["credentials"]
    count = secret_check.count(now=timezone.now())
    assert (count.unreadable, count.altered) == ({}, {})
