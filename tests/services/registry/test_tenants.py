"""Tenants are looked up at Microsoft and cannot be removed while something references them."""

import pytest

from connections.errors import AlreadyExists, InUse, InvalidInput, MicrosoftUnavailable
from connections.microsoft import clouds
from connections.models import AuditEvent, Tenant, User
from connections.services.registry import tenants
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories


def add(alice: User, **overrides: str) -> Tenant:
    values = {"name": "Contoso", "environment": "sandbox", "directory_id": "contoso.example"} | overrides
    return tenants.add(values.pop("name"), **values, actor=alice)


def test_adding_by_domain_stores_the_guid(alice: User, sandbox: Control) -> None:
    tenant = add(alice, directory_id="Contoso.Example")
    assert (tenant.directory_id, tenant.tid) == ("contoso.example", seed.CONTOSO)
    event = AuditEvent.objects.get(action="tenant.added")
    assert (event.actor, event.changes["tid"]) == (alice, seed.CONTOSO)


def test_an_unknown_directory_or_environment_is_refused(alice: User, sandbox: Control) -> None:
    with pytest.raises(InvalidInput, match="choose that environment") as caught:
        add(alice, directory_id="nobody.example")
    assert caught.value.field == "directory_id"
    with pytest.raises(InvalidInput) as caught:
        add(alice, environment="atlantis")
    assert caught.value.field == "environment"
    assert not Tenant.objects.exists()


def test_it_can_be_added_during_an_outage_and_looked_up_later(alice: User, sandbox: Control) -> None:
    sandbox.weather("unavailable", "login")
    tenant = add(alice)
    assert tenant.tid == ""
    with pytest.raises(MicrosoftUnavailable):
        tenants.update_from_microsoft(tenant, actor=alice)
    sandbox.weather("normal", "login")
    tenants.update_from_microsoft(tenant, actor=alice)
    tenants.update_from_microsoft(tenant, actor=alice)  # a second time changes nothing
    assert factories.reloaded(tenant).tid == seed.CONTOSO
    assert AuditEvent.objects.filter(action="tenant.looked_up").count() == 1


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"directory_id": "fabrikam.example"}, "name"),
        ({"name": "Again"}, "directory_id"),
        ({"name": "Again", "directory_id": seed.CONTOSO}, "directory_id"),
    ],
    ids=["same name", "same directory", "same directory by its other name"],
)
def test_the_same_tenant_twice_is_refused(alice: User, sandbox: Control, overrides: dict[str, str], field: str) -> None:
    add(alice)
    with pytest.raises(AlreadyExists) as caught:
        add(alice, **overrides)
    assert caught.value.field == field
    assert Tenant.objects.count() == 1


@pytest.mark.parametrize(
    ("endpoint", "tid"), [("common", ""), ("organizations", ""), ("consumers", clouds.CONSUMERS_TID)]
)
def test_a_shared_endpoint_has_no_directory_of_its_own(alice: User, sandbox: Control, endpoint: str, tid: str) -> None:
    tenant = add(alice, name=endpoint, directory_id=endpoint)
    assert (tenant.is_shared_endpoint, tenant.tid) == (True, tid)


def test_only_the_name_can_change_while_something_uses_it(alice: User, sandbox: Control) -> None:
    tenant = add(alice)
    factories.make_app_registration(tenant=tenant)
    tenants.change(tenant, name="Contoso AG", environment="sandbox", directory_id="contoso.example", actor=alice)
    with pytest.raises(InUse, match="Contoso Connections"):
        tenants.change(tenant, name="Contoso AG", environment="sandbox", directory_id="fabrikam.example", actor=alice)
    tenant.refresh_from_db()
    assert (tenant.name, tenant.directory_id) == ("Contoso AG", "contoso.example")
    assert AuditEvent.objects.get(action="tenant.changed").changes == {"name": ["Contoso", "Contoso AG"]}


def test_an_unused_tenant_can_change_and_a_change_without_effect_is_not_audited(alice: User, sandbox: Control) -> None:
    tenant = add(alice)
    tenants.change(tenant, name="Contoso", environment="sandbox", directory_id="contoso.example", actor=alice)
    assert not AuditEvent.objects.filter(action="tenant.changed").exists()
    tenants.change(tenant, name="Fabrikam", environment="sandbox", directory_id="fabrikam.example", actor=alice)
    tenant.refresh_from_db()
    assert (tenant.directory_id, tenant.tid) == ("fabrikam.example", seed.FABRIKAM)


def test_removing_names_objects_that_still_reference_the_tenant(alice: User, sandbox: Control) -> None:
    tenant = add(alice)
    app, mailbox = factories.make_app_registration(tenant=tenant), factories.make_mailbox(tenant=tenant)
    with pytest.raises(InUse) as caught:
        tenants.remove(tenant, actor=alice)
    assert app.name in str(caught.value)
    assert mailbox.address in str(caught.value)
    app.delete()
    mailbox.delete()
    tenants.remove(tenant, actor=alice)
    assert not Tenant.objects.exists()
    assert AuditEvent.objects.get(action="tenant.removed").target_name == "Contoso"
