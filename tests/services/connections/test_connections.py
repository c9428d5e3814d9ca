"""Creating, changing, disabling, enabling and removing connections."""

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import AlreadyExists, InvalidInput, MicrosoftRefused, MicrosoftUnavailable, NotAllowed
from connections.models import AppRegistration, AuditEvent, Connection, User
from connections.services.connections import app_only, connections
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

Status = Connection.Status


def events() -> list[tuple[str, str]]:
    return [(event.action, event.outcome) for event in AuditEvent.objects.order_by("pk")]


def start(actor: User, **overrides: Any) -> Connection:
    app = overrides.pop("app", None) or factories.make_app_registration()
    return connections.start_delegated(app, actor=actor, **({"name": "Inbox", "chosen": ["mail.read"]} | overrides))


def robots(**overrides: Any) -> Any:
    return factories.make_app_registration(
        **({"client_id": seed.ROBOTS_APP, "secret": seed.ROBOTS_SECRET, "name": "Robots"} | overrides)
    )


def connect(actor: User, app: Any, **overrides: Any) -> Connection:
    values = {"name": "Nightly", "chosen": ["mail.read"]} | overrides
    return app_only.connect(app, actor=actor, now=timezone.now(), **values)


def test_a_delegated_connection_is_pending_until_its_owner_signs_in(bob: User) -> None:
    connection = start(bob)
    assert (connection.owner, connection.status, connection.refresh_after) == (bob, Status.PENDING, None)
    assert connection.connected_at is None
    assert events() == [("connection.created", "done")]


def test_an_auditor_cannot_create_connections(carol: User) -> None:
    with pytest.raises(NotAllowed):
        start(carol)
    with pytest.raises(NotAllowed):
        connect(carol, robots())
    assert not Connection.objects.exists()
    assert events() == []


def test_a_name_must_be_unique_per_owner(bob: User, dave: User, app: AppRegistration) -> None:
    start(bob, app=app)
    with pytest.raises(AlreadyExists) as caught:
        start(bob, app=app)
    assert caught.value.field == "name"
    assert start(dave, app=app).owner == dave
    assert Connection.objects.count() == 2


def test_an_authentication_type_the_app_does_not_allow_is_refused(alice: User, bob: User, sandbox: Control) -> None:
    with pytest.raises(NotAllowed, match="allow delegated connections"):
        start(bob, app=robots(allows_delegated=False))
    with pytest.raises(NotAllowed, match=r"doesn.t allow app-only connections"):
        connect(alice, factories.make_app_registration(allows_app_only=False))
    assert not Connection.objects.exists()


def test_an_unknown_capability_is_refused(bob: User) -> None:
    with pytest.raises(InvalidInput) as caught:
        start(bob, chosen=["mail.read", "moon.walk"])
    assert caught.value.field == "capabilities"
    assert not Connection.objects.exists()


def test_only_an_it_admin_can_create_an_app_only_connection(alice: User, bob: User, sandbox: Control) -> None:
    app = robots()
    with pytest.raises(NotAllowed, match="whole tenant"):
        connect(bob, app)
    connection = connect(alice, app)
    assert connection.status == Status.ACTIVE
    assert Connection.objects.get().access_token
    assert Connection.objects.get().refresh_token is None
    assert "Mail.Read" in connection.granted
    assert events() == [("connection.created", "done"), ("connection.connected", "done")]


@pytest.mark.parametrize("weather", ["unavailable", "broken_json", "throttle"])
def test_nothing_is_stored_when_microsoft_is_unavailable(alice: User, sandbox: Control, weather: str) -> None:
    app = robots()
    sandbox.weather(weather, where="token")
    with pytest.raises(MicrosoftUnavailable):
        connect(alice, app)
    assert not Connection.objects.exists()
    assert events() == []
    assert factories.reloaded(app).rejected_at is None


def test_nothing_is_stored_when_microsoft_rejects_the_secret(alice: User, sandbox: Control) -> None:
    with pytest.raises(MicrosoftRefused, match="secret"):
        connect(alice, robots(secret="wrong~secret"))
    assert not Connection.objects.exists()


def test_a_shared_endpoint_cannot_work_app_only(alice: User, sandbox: Control) -> None:
    tenant = factories.make_tenant(name="Anybody", directory_id="organizations", tid="")
    with pytest.raises(InvalidInput, match="possible with “"):
        connect(alice, robots(tenant=tenant, audience="multi"))
    assert sandbox.calls()["by_endpoint"] == {}


def test_a_change_keeps_granted_permissions_and_returns_whether_others_are_missing(
    bob: User, connection: Connection
) -> None:
    chosen = ["mail.read", "calendar.events"]
    assert connections.change(connection, name="Renamed", chosen=chosen, extra_scopes=(), actor=bob)
    connection.refresh_from_db()
    assert (connection.name, connection.scopes) == ("Renamed", "Mail.Read offline_access")
    assert AuditEvent.objects.get(action="connection.changed").changes["name"] == ["Invoices", "Renamed"]


def test_a_change_without_effect_is_not_recorded(bob: User, connection: Connection) -> None:
    connections.change(connection, name="Invoices", chosen=["mail.read"], extra_scopes=(), actor=bob)
    assert events() == []


def test_a_duplicate_name_changes_nothing(bob: User) -> None:
    factories.make_connection(owner=bob, name="First")
    second = factories.make_connection(owner=bob, name="Second")
    with pytest.raises(AlreadyExists):
        connections.change(second, name="First", chosen=["mail.send"], extra_scopes=(), actor=bob)
    second.refresh_from_db()
    assert (second.name, second.capabilities) == ("Second", ["mail.read"])
    assert events() == []


def change(connection: Connection, actor: User) -> None:
    connections.change(connection, name="Hers", chosen=["mail.read"], extra_scopes=(), actor=actor)


def disable(connection: Connection, actor: User) -> None:
    connections.disable(connection, actor=actor, now=timezone.now())


def enable(connection: Connection, actor: User) -> None:
    connections.enable(connection, actor=actor, now=timezone.now())


def remove(connection: Connection, actor: User) -> None:
    connections.remove(connection, actor=actor, now=timezone.now())


@pytest.mark.parametrize("act", [change, disable, enable, remove])
@pytest.mark.parametrize("who", ["dave", "carol"])
def test_services_refuse_other_people(who: str, act: Callable[[Connection, User], None]) -> None:
    connection = factories.make_connection()
    with pytest.raises(NotAllowed):
        act(connection, factories.make_person(who))
    connection.refresh_from_db()
    assert (connection.name, connection.status) == ("Invoices", Status.ACTIVE)
    assert events() == []


def test_an_it_admin_can_disable_but_not_change_another_persons_connection(alice: User) -> None:
    connection = factories.make_connection()
    with pytest.raises(NotAllowed):
        change(connection, alice)
    disable(connection, alice)
    assert connection.status == Status.DISABLED


def test_disabling_twice_is_harmless_and_keeps_the_grant(bob: User, connection: Connection) -> None:
    disable(connection, bob)
    disable(connection, bob)
    connection.refresh_from_db()
    assert (connection.status, connection.refresh_after) == (Status.DISABLED, None)
    assert "Bob Member disabled" in connection.status_cause
    assert connection.refresh_token
    assert events() == [("connection.disabled", "done")]


def test_an_it_admin_can_disable_a_connection_that_its_owner_has_disabled_before(alice: User, bob: User) -> None:
    disable(factories.make_connection(owner=bob), bob)
    for _ in range(2):
        disable(Connection.objects.get(), alice)
    stored = Connection.objects.get()
    assert (stored.disabled_by_admin, stored.disabled_by, stored.status_who) == (True, alice, "it_admin")
    with pytest.raises(NotAllowed, match="An IT admin disabled"):
        enable(stored, bob)
    assert len(events()) == 2
    enable(stored, alice)
    disable(stored, bob)
    enable(stored, bob)
    assert stored.status == Status.ACTIVE


def test_enabling_makes_it_due_at_once_and_doing_it_twice_is_harmless(bob: User, connection: Connection) -> None:
    disable(connection, bob)
    enable(connection, bob)
    enable(connection, bob)
    connection.refresh_from_db()
    assert (connection.status, connection.status_cause) == (Status.ACTIVE, "")
    assert connection.refresh_after is not None
    assert connection.refresh_after <= timezone.now()
    assert events() == [("connection.disabled", "done"), ("connection.enabled", "done")]


def test_enabling_a_connection_without_a_sign_in_makes_it_pending(bob: User) -> None:
    connection = start(bob)
    disable(connection, bob)
    enable(connection, bob)
    assert (connection.status, connection.refresh_after) == (Status.PENDING, None)


def test_the_audit_events_of_a_removed_connection_are_kept(bob: User, connection: Connection) -> None:
    factories.make_mailbox_access(connection, factories.make_mailbox())
    pk = connection.pk
    remove(connection, bob)
    assert not Connection.objects.exists()
    event = AuditEvent.objects.get(action="connection.removed")
    assert (event.target_id, event.target_name, event.owner_id) == (str(pk), "Invoices", bob.pk)
    assert event.actor == bob
