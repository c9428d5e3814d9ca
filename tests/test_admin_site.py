"""Break-glass access: the admin site follows the portal's rules and shows no secret."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.test import Client
from django.urls import reverse

from connections.models import AppCredential, AppRegistration, AuditEvent, Connection, Delivery, Tenant, User
from connections.services.registry import credentials
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

SECRETS = (factories.CLIENT_SECRET, "FictitiousRefreshToken", "fictitious.access-token", "PRIVATE KEY")


@pytest.fixture
def root(db: None) -> Client:
    return factories.signed_in(User.objects.create_superuser("root", "root@example.org", factories.PASSWORD))


def url(model: type, what: str, *arguments: Any) -> str:
    return reverse(f"admin:connections_{model.__name__.lower()}_{what}", args=arguments)


def test_a_tenant_is_added_by_the_same_form_and_service(root: Client, sandbox: Control) -> None:
    typed = {"name": "Contoso", "environment": "sandbox", "directory_id": "https://login.example/contoso"}
    page = root.post(url(Tenant, "add"), typed).content.decode()
    assert "This is a full address" in page
    page = root.post(url(Tenant, "add"), typed | {"directory_id": "nobody.example"}).content.decode()
    assert "find the directory" in page
    assert not Tenant.objects.exists()
    root.post(url(Tenant, "add"), typed | {"directory_id": " Contoso.example "})
    assert Tenant.objects.get().tid == seed.CONTOSO
    assert AuditEvent.objects.get(action="tenant.added").actor_name.endswith("<root>")


def test_microsoft_is_not_asked_inside_a_transaction(root: Client, sandbox: Control, monkeypatch: Any) -> None:
    from django.db import connection

    from connections.microsoft import directory_lookup

    inside = []
    before = len(connection.savepoint_ids)

    def watch(cloud: Any, directory_id: str) -> Any:
        inside.append(len(connection.savepoint_ids) - before)
        return directory_lookup.Directory(seed.CONTOSO, "")

    monkeypatch.setattr(directory_lookup, "discover", watch)
    root.post(url(Tenant, "add"), {"name": "C", "environment": "sandbox", "directory_id": "contoso.example"})
    assert inside == [0]


def test_changing_and_removing_use_the_services(root: Client, sandbox: Control) -> None:
    tenant = factories.make_tenant()
    app = factories.make_app_registration(tenant=tenant)
    moved = {"name": "Contoso", "environment": "sandbox", "directory_id": "fabrikam.example"}
    assert "still used by" in root.post(url(Tenant, "change", tenant.pk), moved).content.decode()
    root.post(url(Tenant, "change", tenant.pk), moved | {"name": "Renamed", "directory_id": tenant.directory_id})
    tenant.refresh_from_db()
    assert (tenant.name, tenant.directory_id) == ("Renamed", seed.CONTOSO)
    factories.make_connection(app_registration=app)
    root.post(url(AppRegistration, "delete", app.pk), {"post": "yes"})
    assert AppRegistration.objects.exists()


def test_an_app_registration_is_changed_by_its_service(root: Client) -> None:
    app = factories.make_app_registration(default_capabilities=["mail.read"])
    typed = {"name": "Renamed", "audience": "single", "allows_delegated": "on"}
    root.post(url(AppRegistration, "change", app.pk), typed | {"client_id": "hacked"})
    app.refresh_from_db()
    assert (app.name, app.client_id, app.default_capabilities) == ("Renamed", factories.CLIENT_ID, ["mail.read"])
    assert AuditEvent.objects.filter(action="app_registration.changed").count() == 1


def test_an_app_registration_is_added_without_a_credential(root: Client, sandbox: Control) -> None:
    tenant = factories.make_tenant()
    typed = {
        "tenant": tenant.pk,
        "name": "New",
        "client_id": "not a guid",
        "audience": "single",
        "allows_delegated": "on",
    }
    assert "t a valid application (client) ID" in root.post(url(AppRegistration, "add"), typed).content.decode()
    root.post(url(AppRegistration, "add"), typed | {"client_id": f"{{{factories.CLIENT_ID}}}"})
    app = AppRegistration.objects.get()
    assert (app.client_id, app.is_ready) == (factories.CLIENT_ID, False)


def test_no_page_of_it_shows_or_takes_a_secret(root: Client, alice: User, app: AppRegistration) -> None:
    credentials.add_generated_certificate(app, actor=alice)
    connection = factories.make_connection(app_registration=app)
    factories.make_mailbox_access(connection, factories.make_mailbox(tenant=app.tenant))
    looked_at = 0
    for model in admin.site._registry:
        if model._meta.app_label != "connections":
            continue
        pages = [url(model, "changelist"), *(url(model, "change", row.pk) for row in model._default_manager.all())]
        for path in pages:
            response = root.get(path)
            assert response.status_code == 200, path
            looked_at += 1
            for secret in SECRETS:
                assert secret not in response.content.decode(), path
    assert looked_at > 15


def test_what_the_portal_writes_by_itself_is_read_only(root: Client) -> None:
    credential = factories.make_app_registration().credentials.get()
    path = url(AppCredential, "change", credential.pk)
    assert root.post(path, {"label": "changed", "secret": "planted"}).status_code == 403
    assert root.post(url(AppCredential, "delete", credential.pk), {"post": "yes"}).status_code == 403
    assert root.get(url(AppCredential, "add")).status_code == 403
    assert root.get(url(AuditEvent, "add")).status_code == 403


def test_members_cannot_open_it(bob: User, signed_in: Any) -> None:
    assert signed_in(bob).get(url(Tenant, "changelist")).status_code == 302


def test_every_change_of_a_person_is_in_the_audit_trail(root: Client) -> None:
    from django.contrib.auth.models import Group

    from connections.models.accounts import IT_ADMINS

    admins = Group.objects.get_or_create(name=IT_ADMINS)[0]
    password = {"password1": factories.PASSWORD, "password2": factories.PASSWORD, "usable_password": "true"}
    assert root.post(url(User, "add"), {"username": "eve", **password}).status_code == 302
    eve = User.objects.get(username="eve")
    times = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    changed = {"username": "eve", "is_active": "on", "groups": [admins.pk], **times}
    assert root.post(url(User, "change", eve.pk), changed).status_code == 302
    assert root.post(reverse("admin:auth_user_password_change", args=[eve.pk]), password).status_code == 302
    assert root.post(url(User, "delete", eve.pk), {"post": "yes"}).status_code == 302
    events = list(AuditEvent.objects.filter(target_name="eve").order_by("pk"))
    assert [event.action for event in events] == [
        "account.added",
        "account.roles_changed",
        "account.changed",
        "account.changed",
        "account.password_changed",
        "account.removed",
    ]
    assert events[1].changes == {"roles": [[], [IT_ADMINS]]}
    assert all(event.actor_name.endswith("<root>") for event in events)
    assert factories.PASSWORD not in str([event.changes for event in events])


def test_groups_and_links_to_microsoft_are_not_for_editing(root: Client) -> None:
    for path in ("/admin/auth/group/", "/admin/social_django/usersocialauth/", "/admin/social_django/association/"):
        assert root.get(path).status_code == 404


def test_an_account_that_owns_connections_cannot_be_deleted(root: Client, bob: User, connection: Connection) -> None:
    for ask in (root.get, lambda path: root.post(path, {"post": "yes"})):
        answer = ask(url(User, "delete", bob.pk))
        assert answer.status_code == 302
        page = root.get(answer["Location"]).content.decode()
        assert "Bob Member still owns connections: Invoices." in page
        assert "Transfer or remove them first." in page
    connection.delete()
    assert root.post(url(User, "delete", bob.pk), {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=bob.pk).exists()


def test_people_cannot_be_deleted_in_bulk_or_disabled_in_the_admin_site(root: Client, bob: User) -> None:
    sent = {"action": "delete_selected", "_selected_action": [bob.pk], "post": "yes"}
    root.post(url(User, "changelist"), sent)
    times = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    root.post(url(User, "change", bob.pk), {"username": "bob", **times})
    assert User.objects.get(pk=bob.pk).is_active


# --- Rights -----------------------------------------------------------------------------------------


@pytest.fixture
def staff(db: None) -> User:
    """An account that may manage people on the admin site, but is no superuser."""
    user = factories.make_person("stan", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__model="user"))
    return user


def person_form(person: User, **changes: Any) -> dict[str, Any]:
    return {"username": person.username, "first_name": "", "last_name": "", "email": person.email, **changes}


def test_staff_cannot_make_themselves_or_others_superuser(staff: User, bob: User) -> None:
    client = factories.signed_in(staff)
    for person in (staff, bob):
        change = {"is_superuser": "on", "is_staff": "on", "groups": [group.pk for group in Group.objects.all()]}
        client.post(url(User, "change", person.pk), person_form(person, **change))
        person.refresh_from_db()
        assert not person.is_superuser
        assert not person.groups.exists()
    assert not User.objects.get(pk=bob.pk).is_staff


def test_staff_cannot_take_over_an_account_with_rights(staff: User, alice: User) -> None:
    root = User.objects.create_superuser("root", password=factories.PASSWORD)
    client = factories.signed_in(staff)
    new = {"password1": "another-long-pass-phrase", "password2": "another-long-pass-phrase", "usable_password": "true"}
    for person in (root, alice):
        before = person.password
        assert client.post(reverse("admin:auth_user_password_change", args=[person.pk]), new).status_code == 403
        assert client.post(url(User, "delete", person.pk), {"post": "yes"}).status_code == 403
        person.refresh_from_db()
        assert person.password == before


def test_a_change_of_rights_is_recorded_and_told_to_it_admins_and_auditors(
    root: Client, alice: User, carol: User, bob: User
) -> None:
    root.post(url(User, "change", bob.pk), person_form(bob, is_superuser="on", is_staff="on"))
    bob.refresh_from_db()
    assert bob.is_superuser
    event = AuditEvent.objects.get(action="account.roles_changed")
    assert event.changes == {"staff": [False, True], "superuser": [False, True]}
    addresses = set(Delivery.objects.values_list("email", flat=True))
    assert {"alice@example.org", "carol@example.org", "root@example.org"} <= addresses
    assert Delivery.objects.filter(subject__contains="the rights of bob").count() == len(addresses)
    root.post(url(User, "change", bob.pk), person_form(bob, is_superuser="on", is_staff="on"))
    assert AuditEvent.objects.filter(action="account.roles_changed").count() == 1


def test_the_admin_sites_sign_out_and_own_password_are_the_portals(root: Client) -> None:
    assert root.get("/admin/password_change/")["Location"] == "/account/password/"
    assert root.post("/admin/logout/")["Location"] == "/sign-in/"
    assert AuditEvent.objects.filter(action="account.signed_out").count() == 1
