"""App-only connections, from the form to a token."""

from datetime import timedelta

from django.utils import timezone

from connections.models import Connection, User
from connections.services.registry import credentials
from connections.services.tokens import scheduler
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.flows.conftest import Meet, Person
from tests.views.pages import assert_answer


def connect(admin: Person, app_pk: int, **changes: object) -> object:
    data = {"kind": "client_credentials", "name": "Nightly robot", "chosen": ["mail.read"], **changes}
    return admin.post(f"/connect/several/?app={app_pk}", **data)


def test_an_app_only_connection_works_at_once_and_is_refreshed(person: Meet, alice: User, sandbox: Control) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "User.Read.All"])
    connect(person(alice), factories.make_app_registration().pk, mailboxes="support@contoso.example")

    connection = Connection.objects.get()
    assert (connection.status, connection.granted) == ("active", frozenset({"Mail.Read", "User.Read.All"}))
    assert connection.mailbox_accesses.get().state == "reachable"
    assert connection.refresh_after is not None
    assert scheduler.sweep(now=connection.refresh_after).renewed == 1
    assert connection.refresh_token is None


def test_a_token_without_roles_needs_consent_and_works_after_it(person: Meet, alice: User, sandbox: Control) -> None:
    sandbox.withdraw_consent(factories.CLIENT_ID)
    connect(person(alice), factories.make_app_registration().pk)

    connection = Connection.objects.get()
    assert (connection.status, connection.status_code) == ("consent_needed", "no-roles")
    assert connection.status_who == "it_admin"
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read", "User.Read.All"])
    assert connection.refresh_after is not None
    scheduler.sweep(now=connection.refresh_after)
    assert factories.reloaded(connection).status == "active"


def test_a_certificate_made_by_the_portal_carries_it(person: Meet, alice: User, sandbox: Control) -> None:
    app = factories.make_app_registration(secret=None, client_id=seed.ROBOTS_APP)
    certificate = credentials.add_generated_certificate(app, actor=alice)
    sandbox.add_certificate(seed.ROBOTS_APP, certificate.certificate)
    sandbox.grant_consent(seed.ROBOTS_APP, roles=["Mail.Read", "User.Read.All"])
    connect(person(alice), app.pk)
    assert Connection.objects.get().status == "active"


def test_common_is_refused_because_there_is_no_sign_in(person: Meet, alice: User) -> None:
    tenant = factories.make_tenant(name="Anybody", directory_id="common", tid="")
    app = factories.make_app_registration(tenant=tenant, audience="multi")
    page = connect(person(alice), app.pk).content.decode()  # type: ignore[attr-defined]
    assert "This needs a specific directory, not “common”." in page
    assert not Connection.objects.exists()


def test_members_learn_to_ask_an_admin(person: Meet, bob: User) -> None:
    app = factories.make_app_registration(allows_delegated=False)
    assert_answer(person(bob).get(f"/connect/several/?app={app.pk}"), 403, "Ask an IT admin")


def test_microsoft_down_while_connecting_stores_nothing(person: Meet, alice: User, sandbox: Control) -> None:
    sandbox.weather("unavailable", where="token")
    app = factories.make_app_registration()
    page = connect(person(alice), app.pk).content.decode()  # type: ignore[attr-defined]
    assert "Nightly robot" in page, "nothing typed is lost"
    assert not Connection.objects.exists()


def test_disabled_stays_disabled_until_enabled(person: Meet, alice: User, sandbox: Control) -> None:
    sandbox.grant_consent(factories.CLIENT_ID, roles=["Mail.Read"])
    connection = factories.make_app_only_connection()
    admin = person(alice)
    admin.post(f"/connections/{connection.pk}/disable/")
    assert scheduler.sweep(now=timezone.now() + timedelta(hours=3)).claimed == 0
    admin.post(f"/connections/{connection.pk}/enable/")
    assert scheduler.sweep(now=timezone.now()).renewed == 1
