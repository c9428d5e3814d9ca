"""Pages about tenants: who sees what, and what happens to the input."""

from typing import Any

from django.test import Client
from django.urls import reverse

from connections.models import Tenant
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.views.pages import assert_shows

TYPED = {"name": "Contoso", "environment": "sandbox", "directory_id": " Contoso.EXAMPLE\n"}


def test_an_admin_adds_a_tenant_and_lands_on_its_page(admin: Client, sandbox: Control) -> None:
    response = admin.post(reverse("tenant_add"), TYPED, follow=True)
    tenant = Tenant.objects.get()
    assert response.request["PATH_INFO"] == reverse("tenant", args=[tenant.pk])
    assert tenant.tid == seed.CONTOSO
    assert_shows(response.content.decode(), "Contoso was added", seed.CONTOSO, "Verified", "added the tenant Contoso")


def test_nothing_typed_is_lost_when_microsoft_says_no(admin: Client, sandbox: Control) -> None:
    page = admin.post(reverse("tenant_add"), TYPED | {"directory_id": "nobody.example"}).content.decode()
    assert_shows(page, "find the directory", 'value="nobody.example"', 'value="Contoso"')
    assert not Tenant.objects.exists()


def test_saved_during_an_outage_it_says_so_and_offers_to_look_it_up(admin: Client, sandbox: Control) -> None:
    sandbox.weather("unavailable", "login")
    page = admin.post(reverse("tenant_add"), TYPED, follow=True).content.decode()
    assert "be verified, because Microsoft" in page
    tenant = Tenant.objects.get()
    page = admin.post(reverse("tenant_edit", args=[tenant.pk]), {"look_up": "1"}, follow=True).content.decode()
    assert "No action needed" in page or "can't be reached" in page or "problem" in page
    sandbox.weather("normal", "login")
    page = admin.post(reverse("tenant_edit", args=[tenant.pk]), {"look_up": "1"}, follow=True).content.decode()
    assert "Tenant verified" in page
    assert factories.reloaded(tenant).tid == seed.CONTOSO


def test_a_tenant_in_use_can_only_be_renamed(admin: Client, sandbox: Control) -> None:
    tenant = factories.make_tenant()
    factories.make_app_registration(tenant=tenant)
    url = reverse("tenant_edit", args=[tenant.pk])
    assert "You can only change the name" in admin.get(url).content.decode()
    moved = {"name": "New", "environment": "sandbox", "directory_id": "fabrikam.example"}
    assert "still used by" in admin.post(url, moved).content.decode()
    admin.post(url, moved | {"directory_id": tenant.directory_id})
    tenant.refresh_from_db()
    assert (tenant.name, tenant.directory_id) == ("New", seed.CONTOSO)


def test_removing_asks_first_and_refuses_while_in_use(admin: Client) -> None:
    tenant = factories.make_tenant()
    app = factories.make_app_registration(tenant=tenant)
    url = reverse("tenant_remove", args=[tenant.pk])
    assert app.name in admin.get(url).content.decode()
    assert "still used by" in admin.post(url, follow=True).content.decode()
    app.delete()
    admin.get(url)
    assert Tenant.objects.exists()
    admin.post(url)
    assert not Tenant.objects.exists()


def test_a_member_reads_names_and_an_auditor_everything(member: Client, auditor: Client) -> None:
    tenant = factories.make_tenant()
    for path in (reverse("tenants"), reverse("tenant", args=[tenant.pk])):
        members, auditors = member.get(path).content.decode(), auditor.get(path).content.decode()
        assert "Contoso" in members
        assert tenant.directory_id not in members
        assert tenant.directory_id in auditors
        assert reverse("tenant_add") not in members + auditors


def test_the_list_takes_the_same_number_of_queries_however_long(admin: Client, django_assert_num_queries: Any) -> None:
    factories.make_tenant()
    admin.get(reverse("tenants"))
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as short:
        admin.get(reverse("tenants"))
    for number in range(30):
        factories.make_tenant(name=f"T{number}", directory_id=f"t{number}.example", tid="")
    with django_assert_num_queries(len(short)):
        assert "T29" in admin.get(reverse("tenants")).content.decode()


def test_both_empty_states_say_what_to_do(admin: Client, member: Client) -> None:
    assert "No tenants yet" in admin.get(reverse("tenants")).content.decode()
    assert "Only IT admins can add tenants" in member.get(reverse("tenants")).content.decode()
    factories.make_tenant()
    assert "No results found" in admin.get(reverse("tenants"), {"q": "zzz"}).content.decode()
