"""Connections are made, changed, switched and removed by those who may, once, and on record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from connections.errors import AlreadyExists, InvalidInput, MicrosoftRefused, MicrosoftUnavailable, NotAllowed
from connections.models import AuditEvent, Connection, User
from connections.services.connections import app_only, connections
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories

pytestmark = pytest.mark.django_db

Status = Connection.Status


def events() -> list[tuple[str, str]]:
    return [(event.action, event.outcome) for event in AuditEvent.objects.order_by("pk")]


def start(actor: User, **overrides: Any) -> Connection:
    app = overrides.pop("app", None) or factories.make_app_registration()
    return connections.start_delegated(app, actor=actor, **({"name": "Inbox", "chosen": ["mail.read"]} | overrides))


def robots(**overrides: Any) -> Any:
    values = {"client_id": seed.ROBOTS_APP, "secret": seed.ROBOTS_SECRET, "name": "Robots"} | overrides
    return factories.make_app_registration(**values)


def connect(actor: User, app: Any, **overrides: Any) -> Connection:
    wishes = {"name": "Nightly", "chosen": ["mail.read"]} | overrides
    return app_only.connect(app, actor=actor, now=timezone.now(), **wishes)


# --- Made -----------------------------------------------------------------------------------------


def test_a_delegated_connection_waits_for_its_owner(bob: User) -> None:
    made = start(bob)
    assert (made.owner, made.status, made.refresh_after, made.connected_at) == (bob, Status.PENDING, None, None)
    assert events() == [("connection.created", "done")]


def test_an_auditor_makes_none(carol: User) -> None:
    with pytest.raises(NotAllowed):
        start(carol)
    with pytest.raises(NotAllowed):
        connect(carol, robots())
    assert not Connection.objects.exists()
    assert events() == []


def test_the_same_name_twice_is_refused_for_one_owner_only(bob: User, dave: User) -> None:
    app = factories.make_app_registration()
    start(bob, app=app)
    with pytest.raises(AlreadyExists) as caught:
        start(bob, app=app)
    assert caught.value.field == "name"
    assert start(dave, app=app).owner == dave
    assert Connection.objects.count() == 2


def test_a_kind_the_app_registration_is_not_for_is_refused(alice: User, bob: User, sandbox: Control) -> None:
    with pytest.raises(NotAllowed, match="not registered for delegated"):
        start(bob, app=robots(allows_delegated=False))
    with pytest.raises(NotAllowed, match="not registered for app-only"):
        connect(alice, factories.make_app_registration(allows_app_only=False))
    assert not Connection.objects.exists()


def test_a_capability_nobody_knows_is_refused(bob: User) -> None:
    with pytest.raises(InvalidInput) as caught:
        start(bob, chosen=["mail.read", "moon.walk"])
    assert caught.value.field == "capabilities"
    assert not Connection.objects.exists()


def test_app_only_takes_an_it_admin(alice: User, bob: User, sandbox: Control) -> None:
    app = robots()
    with pytest.raises(NotAllowed, match="whole tenant"):
        connect(bob, app)
    made = connect(alice, app)
    assert made.status == Status.ACTIVE
    assert Connection.objects.get().access_token
    assert Connection.objects.get().refresh_token is None
    assert "Mail.Read" in made.granted
    assert events() == [("connection.created", "done"), ("connection.connected", "done")]


@pytest.mark.parametrize("weather", ["unavailable", "broken_json", "throttle"])
def test_a_bad_day_at_microsoft_stores_nothing(alice: User, sandbox: Control, weather: str) -> None:
    app = robots()
    sandbox.weather(weather, where="token")
    with pytest.raises(MicrosoftUnavailable):
        connect(alice, app)
    assert not Connection.objects.exists()
    assert events() == []
    app.refresh_from_db()
    assert app.rejected_at is None


def test_a_wrong_secret_stores_nothing_and_says_so(alice: User, sandbox: Control) -> None:
    with pytest.raises(MicrosoftRefused, match="secret"):
        connect(alice, robots(secret="wrong~secret"))
    assert not Connection.objects.exists()


def test_a_shared_endpoint_cannot_work_app_only(alice: User, sandbox: Control) -> None:
    tenant = factories.make_tenant(name="Anybody", directory_id="organizations", tid="")
    with pytest.raises(InvalidInput, match="cannot work app-only"):
        connect(alice, robots(tenant=tenant, audience="multi"))
    assert sandbox.calls()["by_endpoint"] == {}


# --- Changed --------------------------------------------------------------------------------------


def test_a_change_keeps_what_was_granted_and_tells_what_is_lacking(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    lacks = connections.change(
        connection, name="Renamed", chosen=["mail.read", "calendar.events"], extra_scopes=(), actor=bob
    )
    assert lacks
    connection.refresh_from_db()
    assert (connection.name, connection.scopes) == ("Renamed", "Mail.Read offline_access")
    change = AuditEvent.objects.get(action="connection.changed")
    assert change.changes["name"] == ["Invoices", "Renamed"]


def test_a_change_that_changes_nothing_is_not_recorded(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    connections.change(connection, name="Invoices", chosen=["mail.read"], extra_scopes=(), actor=bob)
    assert events() == []


def test_a_name_that_is_taken_changes_nothing(bob: User) -> None:
    factories.make_connection(owner=bob, name="First")
    second = factories.make_connection(owner=bob, name="Second")
    with pytest.raises(AlreadyExists):
        connections.change(second, name="First", chosen=["mail.send"], extra_scopes=(), actor=bob)
    second.refresh_from_db()
    assert (second.name, second.capabilities) == ("Second", ["mail.read"])
    assert events() == []


def change(connection: Connection, actor: User) -> object:
    return connections.change(connection, name="Hers", chosen=["mail.read"], extra_scopes=(), actor=actor)


def disable(connection: Connection, actor: User) -> object:
    return connections.disable(connection, actor=actor, now=timezone.now())


def enable(connection: Connection, actor: User) -> object:
    return connections.enable(connection, actor=actor, now=timezone.now())


def remove(connection: Connection, actor: User) -> object:
    return connections.remove(connection, actor=actor, now=timezone.now())


Act = Callable[[Connection, User], object]


@pytest.mark.parametrize("act", [change, disable, enable, remove])
@pytest.mark.parametrize("who", ["dave", "carol"])
def test_others_are_refused_whatever_page_let_them_through(who: str, act: Act) -> None:
    connection = factories.make_connection()
    with pytest.raises(NotAllowed):
        act(connection, factories.make_person(who))
    connection.refresh_from_db()
    assert (connection.name, connection.status) == ("Invoices", Status.ACTIVE)
    assert events() == []


def test_an_it_admin_switches_off_but_does_not_rename_what_is_somebody_elses(alice: User) -> None:
    connection = factories.make_connection()
    with pytest.raises(NotAllowed):
        change(connection, alice)
    disable(connection, alice)
    assert connection.status == Status.DISABLED


# --- Switched off and on, removed -----------------------------------------------------------------


def test_disabling_twice_is_harmless_and_keeps_the_grant(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    disable(connection, bob)
    disable(connection, bob)
    connection.refresh_from_db()
    assert (connection.status, connection.refresh_after) == (Status.DISABLED, None)
    assert "Bob Member disabled" in connection.status_cause
    assert connection.refresh_token
    assert events() == [("connection.disabled", "done")]


def test_an_owner_who_was_quicker_to_disable_does_not_keep_the_it_admin_out(alice: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    disable(connection, bob)
    for _ in range(2):
        disable(Connection.objects.get(), alice)
    stored = Connection.objects.get()
    assert (stored.disabled_by_admin, stored.disabled_by, stored.status_who) == (True, alice, "it_admin")
    with pytest.raises(NotAllowed, match="An IT admin has disabled"):
        enable(stored, bob)
    assert len(events()) == 2
    enable(stored, alice)
    disable(stored, bob)
    enable(stored, bob)
    assert stored.status == Status.ACTIVE


def test_enabling_makes_it_due_at_once_and_twice_is_harmless(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    disable(connection, bob)
    enable(connection, bob)
    enable(connection, bob)
    connection.refresh_from_db()
    assert connection.status == Status.ACTIVE
    assert connection.status_cause == ""
    assert connection.refresh_after <= timezone.now()
    assert events() == [("connection.disabled", "done"), ("connection.enabled", "done")]


def test_enabling_what_never_was_connected_makes_nothing_active(bob: User) -> None:
    connection = start(bob)
    disable(connection, bob)
    enable(connection, bob)
    assert connection.status == Status.PENDING
    assert connection.refresh_after is None


def test_a_removed_connection_is_gone_and_its_record_stays(bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    factories.make_mailbox_access(connection, factories.make_mailbox())
    pk = connection.pk
    remove(connection, bob)
    assert not Connection.objects.exists()
    event = AuditEvent.objects.get(action="connection.removed")
    assert (event.target_id, event.target_name, event.owner_id) == (str(pk), "Invoices", bob.pk)
    assert event.actor == bob
