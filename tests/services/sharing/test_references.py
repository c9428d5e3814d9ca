"""Connection references: names that automations use, and that can be pointed at another connection."""

from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from connections.access import querysets
from connections.errors import AlreadyExists, Conflict, InvalidInput, NotAllowed
from connections.models import (
    AlertChoice,
    AuditEvent,
    Connection,
    ConnectionReference,
    Share,
    Team,
    TeamMember,
    User,
)
from connections.services.api_keys import token_requests
from connections.services.connections import connections
from connections.services.people import accounts
from connections.services.sharing import references
from connections.services.sharing.references import KeyUse
from tests import factories
from tests.records import subjects

pytestmark = pytest.mark.django_db


def now() -> datetime:
    return timezone.now()


@pytest.fixture
def first(bob: User) -> Connection:
    return factories.make_connection(owner=bob, name="First")


@pytest.fixture
def second(bob: User) -> Connection:
    return factories.make_connection(owner=bob, name="Second")


@pytest.fixture
def reference(bob: User, first: Connection) -> ConnectionReference:
    return references.create("invoices", first, actor=bob, now=now())


def test_its_history_says_who_pointed_it_where(
    reference: ConnectionReference, first: Connection, second: Connection, bob: User
) -> None:
    for _ in range(2):
        references.point(reference, second, actor=bob, now=now())
    assert factories.reloaded(reference).connection == second
    created, pointed = AuditEvent.objects.filter(target_type="ConnectionReference").order_by("pk")
    assert (created.action, pointed.action) == ("reference.created", "reference.pointed")
    assert pointed.changes["connection"] == [f"First ({first.pk})", f"Second ({second.pk})"]
    assert pointed.owner_id == bob.pk


@pytest.mark.parametrize("name", ["", "7", "-a", "a-", "Invoices", "a b", "default:outlook", "ä", "a" * 64, "a\n"])
def test_names_are_plain(first: Connection, bob: User, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        references.create(name, first, actor=bob, now=now())
    assert refused.value.field == "name"


def test_a_name_belongs_to_one_reference(reference: ConnectionReference, first: Connection, bob: User) -> None:
    with pytest.raises(AlreadyExists):
        references.create("invoices", first, actor=bob, now=now())


def test_a_removed_name_is_not_for_others(reference: ConnectionReference, bob: User, dave: User, alice: User) -> None:
    references.remove(reference, actor=bob, now=now())
    references.remove(reference, actor=bob, now=now())
    assert not querysets.visible_references(bob).exists()
    theirs = factories.make_connection(owner=dave, name="Trap")
    with pytest.raises(AlreadyExists):
        references.create("invoices", theirs, actor=dave, now=now())
    again = references.create("invoices", Connection.objects.get(name="First"), actor=bob, now=now())
    assert (again.pk, again.owner) == (reference.pk, bob)


def test_it_needs_a_right_to_the_reference_and_to_the_connection(
    reference: ConnectionReference, second: Connection, bob: User, dave: User, carol: User
) -> None:
    theirs = factories.make_connection(owner=dave, name="Theirs")
    for actor, target in ((dave, theirs), (dave, second), (carol, second), (bob, theirs)):
        with pytest.raises(NotAllowed):
            references.point(reference, target, actor=actor, now=now())
    Share.objects.create(connection=theirs, person=bob, created_by=dave)
    references.point(reference, theirs, actor=bob, now=now())
    assert factories.reloaded(reference).connection == theirs
    assert subjects("dave@example.org")[-1] == "Bob Member pointed the reference invoices at Theirs"


def test_members_of_its_team_point_it_but_do_not_own_it(
    reference: ConnectionReference, first: Connection, second: Connection, bob: User, dave: User
) -> None:
    team = Team.objects.create(name="Finance")
    TeamMember.objects.create(team=team, user=dave)
    for connection in (first, second):
        Share.objects.create(connection=connection, team=team, created_by=bob)
    with pytest.raises(NotAllowed):
        references.point(reference, second, actor=dave, now=now())
    references.change(reference, team=team, description="", actor=bob)
    references.point(reference, second, actor=dave, now=now())
    assert "Dave Stranger changed the reference invoices" in subjects("bob@example.org")
    with pytest.raises(NotAllowed):
        references.change(reference, team=None, description="", actor=dave)
    with pytest.raises(NotAllowed):
        references.remove(reference, actor=dave, now=now())


def test_an_it_admin_points_it_and_its_owner_is_told_whatever_they_chose(
    reference: ConnectionReference, second: Connection, alice: User, bob: User
) -> None:
    AlertChoice.objects.create(user=bob, messages=False)
    references.point(reference, second, actor=alice, now=now())
    assert "Alice Admin changed the reference invoices" in subjects("bob@example.org")


def test_whoever_saw_something_else_changes_nothing(
    reference: ConnectionReference, first: Connection, second: Connection, bob: User
) -> None:
    references.point(reference, second, actor=bob, now=now())
    third = factories.make_connection(owner=bob, name="Third")
    with pytest.raises(Conflict):
        references.point(reference, third, actor=bob, now=now(), seen=first.pk)
    assert factories.reloaded(reference).connection == second


def test_a_removed_connection_leaves_the_reference_and_tells_its_owner(
    reference: ConnectionReference, first: Connection, alice: User, bob: User
) -> None:
    connections.remove(first, actor=alice, now=now())
    reference = factories.reloaded(reference)
    assert reference.connection is None
    assert "Alice Admin changed the reference invoices" in subjects("bob@example.org")
    assert AuditEvent.objects.filter(target_type="ConnectionReference", action="reference.pointed").count() == 1


def test_the_keys_that_depend_on_it_are_known_and_those_that_would_lose(
    reference: ConnectionReference, first: Connection, second: Connection, bob: User, dave: User
) -> None:
    Share.objects.create(connection=first, person=dave, created_by=bob)
    own, _ = factories.make_key(bob, name="Mine")
    theirs, _ = factories.make_key(dave, name="Theirs")
    for key, days, name in ((own, 0, "invoices"), (theirs, 1, "invoices"), (theirs, 40, "invoices"), (own, 0, "")):
        request = token_requests.TokenRequest(
            key.pk, key.name, str(key.owner), first.pk, first.name, None, reference=name
        )
        token_requests.record([request], now=now() - timedelta(days=days))
    keys = references.keys_of(reference, now=now())
    assert [(key.key_name, key.count) for key in keys] == [("Mine", 1), ("Theirs", 1)]
    assert references.without_access(keys, second) == {theirs.pk}
    type(own).objects.filter(pk=own.pk).update(only_chosen=True)
    assert references.without_access(keys, second) == {own.pk, theirs.pk}
    gone = KeyUse(None, "Gone", "?", 1, now())
    assert references.without_access([gone], second) == set()


def test_a_default_is_its_persons_own(first: Connection, second: Connection, bob: User, dave: User) -> None:
    for connection in (first, second, second):
        own = references.set_default(connection, "outlook", actor=bob, now=now())
    assert (own.name, own.connection) == ("default:outlook", second)
    assert ConnectionReference.objects.count() == 1
    with pytest.raises(NotAllowed):
        references.set_default(first, "outlook", actor=dave, now=now())
    with pytest.raises(InvalidInput):
        references.set_default(first, "teams", actor=bob, now=now())
    assert not querysets.visible_references(dave).exists()
    references.remove(own, actor=bob, now=now())
    assert references.set_default(first, "outlook", actor=bob, now=now()).removed_at is None


def test_an_it_admin_does_not_change_a_persons_default(first: Connection, bob: User, alice: User) -> None:
    own = references.set_default(first, "outlook", actor=bob, now=now())
    theirs = factories.make_connection(owner=alice, name="Hers")
    with pytest.raises(NotAllowed):
        references.point(own, theirs, actor=alice, now=now())
    with pytest.raises(NotAllowed):
        references.remove(own, actor=alice, now=now())


def test_the_database_keeps_names_of_defaults_apart(first: Connection, bob: User) -> None:
    for values in ({"name": "default:outlook"}, {"name": "plain", "connector": "outlook"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            ConnectionReference.objects.create(owner=bob, connection=first, **values)


def test_the_references_of_a_removed_account_go_to_the_it_admin(first: Connection, alice: User) -> None:
    robot = factories.make_service_account()
    Share.objects.create(connection=first, person=robot, created_by=first.owner)
    reference = references.create("invoices", first, actor=robot, now=now())
    references.set_default(first, "outlook", actor=robot, now=now())
    accounts.remove(robot, actor=alice, now=now())
    assert factories.reloaded(reference).owner == alice
    assert ConnectionReference.objects.count() == 1
