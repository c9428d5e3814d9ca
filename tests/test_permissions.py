"""Every URL for every role and every relation to the object; permissions_table holds the expected results."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection as database
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from connections.api.urls import api
from connections.models import (
    AuditEvent,
    Connection,
    MailboxAccess,
    RepeatedDenial,
    Session,
    SignInLimit,
    TokenFetch,
    User,
)
from portal.sandbox import seed
from tests import browser_sessions, factories, full_dataset, permissions_table
from tests.asgi_client import PortalClient
from tests.permissions_table import PEOPLE, Row

pytestmark = pytest.mark.django_db

ROWS = list(permissions_table.rows())
API_ROWS = list(permissions_table.api_rows())
SIGN_IN = "/sign-in/?next="
# Where the admin site sends people who may not see it; the portal has its own page for the password.
REFUSED_AT = ("/admin/login/", SIGN_IN, "/account/password/")


@pytest.fixture(autouse=True)
def _sign_in_with_microsoft(settings: Any) -> None:
    settings.LOGIN_MICROSOFT = factories.MICROSOFT_SIGN_IN


def browser(user: User | None) -> Client:
    return factories.signed_in(user) if user else Client()


def contents() -> dict[str, list[Any]]:
    """Return every row of every table, with secrets as stored.

    It leaves out sessions, counted sign-ins, token requests and denied requests.
    """
    rows = {}
    with database.cursor() as cursor:
        for table, statement in _statements().items():
            cursor.execute(statement)
            rows[table] = cursor.fetchall()
    return rows


@cache
def _statements() -> dict[str, str]:
    """Return the query that reads each table, cached because this is done thousands of times."""
    counts = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.app_label == "contenttypes" or model in (Session, SignInLimit, TokenFetch, RepeatedDenial):
            continue
        # last_login is Django's own record that somebody signed in.
        columns = [field.column for field in model._meta.concrete_fields if field.name != "last_login"]
        pk = model._meta.pk
        assert pk is not None
        listed = ", ".join(f'"{column}"' for column in columns)
        where = "WHERE action <> 'access.denied'" if model is AuditEvent else ""
        counts[model._meta.db_table] = f'SELECT {listed} FROM "{model._meta.db_table}" {where} ORDER BY "{pk.column}"'
    return counts


def routes(patterns: list[Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of all URLs of the portal; the admin site is tested as a whole."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            if pattern.namespace != "admin":
                yield from routes(pattern.url_patterns, f"{pattern.namespace}:" if pattern.namespace else prefix)
        elif isinstance(pattern, URLPattern):
            assert pattern.name, f"{pattern.pattern} has no name"
            yield f"{prefix}{pattern.name}"


def test_every_url_has_a_row_for_get_and_for_post() -> None:
    known = {(row.name, row.method) for row in [*ROWS, *API_ROWS]}
    api_methods = {f"api:{name}": methods for name, methods in operations().items()}
    missing = [
        f"{method} {name}"
        for name in routes(get_resolver().url_patterns)
        for method in api_methods.get(name, ["GET", "POST"])
        if (name, method) not in known
    ]
    assert not missing, f"Add to tests/permissions_table.py: {missing}"


def operations() -> dict[str, list[str]]:
    """Return the API's operations by URL name, with the methods each one allows."""
    return {
        getattr(operation, "url_name", "") or api.get_operation_url_name(operation, router.template): operation.methods
        for router in api._get_bound_routers()
        for view in router.path_operations.values()
        for operation in view.operations
    }


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_person_gets_what_the_table_says(row: Row, contoso: full_dataset.World) -> None:
    path = contoso.url(row.name, row.route.partition("/")[2])
    form = full_dataset.FILLED_IN | full_dataset.posted(contoso).get(row.name, {})
    before = contents()
    got = []
    for person, expected in zip(PEOPLE, row.answers, strict=True):
        with transaction.atomic():
            client = browser(contoso.people.get(person))
            answer = client.get(path) if row.method == "GET" else client.post(path, form)
            got.append(_told(answer))
            if row.method == "GET" or expected in ("in", "403", "404", "405"):
                assert contents() == before, f"{person}: {row} changed something"
            transaction.set_rollback(True)
    assert dict(zip(PEOPLE, got, strict=True)) == dict(zip(PEOPLE, row.answers, strict=True))
    assert contents() == before


@pytest.mark.parametrize("row", API_ROWS, ids=str)
def test_each_key_gets_what_the_table_says(row: Row, contoso: full_dataset.World) -> None:
    path = contoso.url(row.name)
    body = full_dataset.posted(contoso).get(row.name, {})
    keys = {person: factories.make_key(user)[1] for person, user in contoso.people.items()}
    before = contents()
    got = []
    for person, expected in zip(PEOPLE, row.answers, strict=True):
        with transaction.atomic():
            headers = {"Authorization": f"Bearer {keys[person]}"} if person in keys else {}
            ask = getattr(PortalClient(headers=headers), row.method.lower())
            answer = ask(path) if row.method == "GET" else ask(path, body, content_type="application/json")
            got.append(str(answer.status_code))
            # The audit trail records who exports it.
            notes = row.name in ("api:export_audit_events", "api:export_review") and expected == "200"
            if (row.method == "GET" and not notes) or expected in ("401", "403", "404"):
                assert contents() == before, f"{person}: {row} changed something"
            transaction.set_rollback(True)
    assert dict(zip(PEOPLE, got, strict=True)) == dict(zip(PEOPLE, row.answers, strict=True))
    assert contents() == before


def test_a_browser_session_is_no_key(contoso: full_dataset.World) -> None:
    """If it were one, pages of other sites could use the API in a signed-in person's name."""
    client = browser(contoso.people["alice"])
    for row in API_ROWS:
        answer = getattr(client, row.method.lower())(contoso.url(row.name), content_type="application/json")
        assert answer.status_code == 401, row


def _told(answer: Any) -> str:
    if answer.status_code == 302 and answer["Location"].startswith(SIGN_IN):
        return "in"
    return str(answer.status_code)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_no_page_knows_other_methods(method: str, contoso: full_dataset.World) -> None:
    client = browser(contoso.people["alice"])
    for row in ROWS:
        if row.name.startswith("social:"):
            continue
        path = contoso.url(row.name)
        before = contents()
        assert getattr(client, method)(path).status_code == 405, path
        assert contents() == before, path


def test_head_is_as_harmless_as_get(contoso: full_dataset.World) -> None:
    client = browser(contoso.people["alice"])
    for row in ROWS:
        if row.method == "GET" and row.of("alice") == "200":
            answer = client.head(contoso.url(row.name))
            assert (answer.status_code, answer.getvalue()) == (200, b""), row


def test_a_post_without_the_csrf_token_is_refused(contoso: full_dataset.World) -> None:
    client = Client(enforce_csrf_checks=True)
    browser_sessions.sign_in(client, contoso.people["alice"])
    forms = full_dataset.posted(contoso)
    before = contents()
    for row in ROWS:
        # Microsoft may call back with a cross-site POST; the state parameter protects the callback.
        if row.method == "POST" and row.name != "social:complete" and row.of("alice") == "302":
            path = contoso.url(row.name, row.route.partition("/")[2])
            assert client.post(path, forms.get(row.name, {})).status_code == 403, row
    assert contents() == before


# --- The admin site -------------------------------------------------------------------------------


def admin_pages() -> list[str]:
    """Return the list and the add page of every model, and the pages that belong to no model."""
    urls = [reverse("admin:index"), reverse("admin:password_change"), reverse("admin:jsi18n")]
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        urls += [reverse(f"{name}_changelist"), reverse(f"{name}_add")]
        urls += [
            reverse(f"{name}_{page}", args=[row.pk])
            for row in model._default_manager.all()
            for page in ("change", "delete")
        ]
    return urls


@pytest.mark.parametrize("person", PEOPLE)
def test_the_admin_site_lets_no_role_in(person: str, contoso: full_dataset.World) -> None:
    client = browser(contoso.people.get(person))
    before = contents()
    for path in admin_pages():
        for answer in (client.get(path), client.post(path, {"post": "yes"})):
            assert answer.status_code in (302, 403), path
            assert answer.status_code == 403 or answer["Location"].startswith(REFUSED_AT), path
    assert contents() == before


def test_a_superuser_gets_into_the_admin_site(contoso: full_dataset.World) -> None:
    client = browser(User.objects.create_superuser("root", "root@example.org", factories.PASSWORD))
    assert client.get(reverse("admin:index")).status_code == 200


def test_the_admin_site_is_entered_through_the_portals_sign_in(contoso: full_dataset.World) -> None:
    """The admin site's own sign-in page would let people in without an audit event."""
    root = User.objects.create_superuser("root", "root@example.org", factories.PASSWORD)
    client = Client()
    assert client.get(reverse("admin:index"), follow=True).request["PATH_INFO"] == "/sign-in/"
    assert client.post("/admin/login/", {"username": "root", "password": factories.PASSWORD}).status_code in (302, 405)
    assert "_auth_user_id" not in client.session
    browser_sessions.sign_in(client, contoso.people["bob"])
    assert client.get(reverse("admin:index"), follow=True).status_code == 403
    browser_sessions.sign_in(client, root)
    assert client.get("/admin/login/?next=/admin/", follow=True).status_code == 200


# --- Somebody else's ids --------------------------------------------------------------------------


def test_a_child_is_found_only_under_its_own_parent(contoso: full_dataset.World) -> None:
    other_app = factories.make_app_registration(
        name="Third", client_id=seed.ARCHIVE_APP, tenant=contoso.tenant, secret="its-own-secret"
    )
    foreign = other_app.credentials.get()
    theirs = MailboxAccess.objects.exclude(connection=contoso.connection).get()
    alice, bob = browser(contoso.people["alice"]), browser(contoso.people["bob"])
    pk, app = contoso.connection.pk, contoso.app.pk
    before = contents()
    calls: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
        (alice.get, f"/apps/{app}/credentials/{foreign.pk}/retire/", {}),
        (alice.post, f"/apps/{app}/credentials/{foreign.pk}/retire/", {}),
        (alice.get, f"/apps/{app}/credentials/{foreign.pk}/certificate/", {}),
        (alice.post, f"/apps/{app}/verify/", {"credential": foreign.pk}),
        (alice.post, f"/apps/{other_app.pk}/consent/", {"check": contoso.consent.pk}),
        (bob.post, f"/connections/{pk}/mailboxes/{theirs.pk}/probe/", {}),
        (bob.post, f"/connections/{pk}/mailboxes/{theirs.pk}/detach/", {}),
    ]
    for ask, path, data in calls:
        assert ask(path, data).status_code == 404, path
    assert contents() == before


def test_the_mailbox_of_another_tenant_is_not_attached(contoso: full_dataset.World) -> None:
    """An address belongs to the tenant of the app registration, whatever other tenants have registered."""
    bob = browser(contoso.people["bob"])
    form = {
        "kind": "authorization_code",
        "name": "Mine",
        "chosen": ["mail.read"],
        "mailboxes": "office@fabrikam.example",
    }
    bob.post(f"/connect/several/?app={contoso.app.pk}", form)
    attached = MailboxAccess.objects.get(connection__name="Mine").mailbox
    assert (attached.address, attached.tenant) == ("office@fabrikam.example", contoso.tenant)


def test_a_form_does_not_choose_the_owner_or_the_status(contoso: full_dataset.World) -> None:
    bob = browser(contoso.people["bob"])
    extra = {
        "owner": contoso.people["dave"].pk,
        "owner_id": contoso.people["dave"].pk,
        "status": "active",
        "scopes": "Mail.Send",
        "granted_scopes": "Mail.Send",
        "account_oid": "x",
        "app_registration": 0,
        "authentication_type": "client_credentials",
        "refresh_token": "planted",
    }
    bob.post(contoso.url("connection_edit"), {**full_dataset.posted(contoso)["connection_edit"], **extra})
    bob.post(contoso.url("connect_service"), {**full_dataset.posted(contoso)["connect_service"], **extra})
    changed = Connection.objects.get(pk=contoso.connection.pk)
    assert changed.name == "Renamed"
    assert (changed.owner.username, changed.status, changed.scopes) == ("bob", "active", "Mail.Read offline_access")
    assert (changed.app_registration_id, changed.refresh_token) == (contoso.app.pk, full_dataset.REFRESH_TOKEN)
    connection = Connection.objects.get(name="Another")
    assert (connection.owner.username, connection.status, connection.scopes) == ("bob", "pending", "")
    assert connection.granted_scopes == ""
    assert connection.is_delegated


def test_a_member_makes_no_app_only_connection(contoso: full_dataset.World) -> None:
    bob = browser(contoso.people["bob"])
    form = {"kind": "client_credentials", "name": "Everything", "chosen": ["mail.read"]}
    assert bob.post(f"/connect/several/?app={contoso.app.pk}", form).status_code == 422
    assert not Connection.objects.filter(name="Everything").exists()


def test_an_app_registration_for_robots_is_closed_to_members(contoso: full_dataset.World) -> None:
    robots = factories.make_app_registration(
        name="Robots", client_id=seed.ROBOTS_APP, tenant=contoso.tenant, allows_delegated=False
    )
    for method in ("get", "post"):
        assert getattr(browser(contoso.people["bob"]), method)(f"/connect/several/?app={robots.pk}").status_code == 403


def test_what_a_list_shows_is_what_one_may_see(contoso: full_dataset.World) -> None:
    for person, sees in (("bob", True), ("dave", False), ("alice", True), ("carol", True)):
        client = browser(contoso.people[person])
        for path in ("/connections/", "/", contoso.url("mailbox"), "/connections/?q=Invoices"):
            text = client.get(path).content.decode()
            if path != "/" or person in ("bob", "dave"):
                assert (contoso.connection.name in text) is sees or path.startswith("/connections/?"), (person, path)
            assert f'href="/connections/{contoso.connection.pk}/"' not in text or sees, (person, path)


def test_members_read_names_of_the_registry_only(contoso: full_dataset.World) -> None:
    for person, sees in (("bob", False), ("dave", False), ("alice", True), ("carol", True)):
        client = browser(contoso.people[person])
        text = client.get(contoso.url("app")).content.decode()
        assert contoso.app.name in text
        assert (contoso.certificate.thumbprint in text.replace(" ", "").replace(":", "")) is sees, person
        assert contoso.tenant.name in client.get(contoso.url("tenant")).content.decode()


def test_a_role_taken_away_is_gone_at_the_next_request(contoso: full_dataset.World) -> None:
    alice = contoso.people["alice"]
    client = browser(alice)
    assert client.get("/tenants/add/").status_code == 200
    alice.groups.clear()
    assert client.get("/tenants/add/").status_code == 403
    assert client.get(contoso.url("connection")).status_code == 404


def test_a_disabled_person_is_out_at_the_next_request(contoso: full_dataset.World) -> None:
    bob = contoso.people["bob"]
    client = browser(bob)
    assert client.get(contoso.url("connection")).status_code == 200
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert _told(client.get(contoso.url("connection"))) == "in"
