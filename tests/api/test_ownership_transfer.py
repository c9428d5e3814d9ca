"""Transferring ownership of one connection or of all of a person's, and previewing the consequences."""

from typing import Any

import pytest
from django.utils import timezone

from connections.models import AuditEvent, Connection, HandOver, Share, TokenFetch, User
from tests import factories
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, problem, wrong_fields


def record_fetches(connection: Connection, key: Any) -> None:
    TokenFetch.objects.create(
        connection=connection,
        connection_name=connection.name,
        key=key,
        key_name=key.name,
        owner_name=str(key.owner),
        minute=timezone.now(),
        count=3,
    )


def test_ownership_is_transferred_to_a_name_or_a_number(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    path, program = f"connections/{connection.pk}/hand-over", Program(alice)
    transfer = program.post(path, {"new_owner": "dave"})
    assert transfer.status_code == 200
    assert (transfer.json()["to_owner_id"], transfer.json()["from_owner_id"]) == (dave.pk, bob.pk)
    assert (transfer.json()["keeps_grant"], transfer.json()["completed_at"]) == (True, None)
    connection = Connection.objects.get(pk=connection.pk)
    assert (connection.owner, bool(connection.refresh_token)) == (dave, True)
    back = program.post(path, {"new_owner_id": bob.pk, "grant": "cut", "new_name": "Once more"})
    assert (back.json()["keeps_grant"], back.json()["connection_name"]) == (False, "Once more")
    connection = Connection.objects.get(pk=connection.pk)
    assert (connection.owner, connection.status) == (bob, "reconnect_needed")
    assert connection.refresh_token is None


def test_a_second_transfer_to_the_same_owner_changes_nothing(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    path, program = f"connections/{connection.pk}/hand-over", Program(alice)
    body = {"new_owner_id": dave.pk, "seen_owner_id": bob.pk}
    first = program.post(path, body, idempotency_key="once")
    replayed = program.post(path, body, idempotency_key="once")
    assert (replayed.json(), replayed["Idempotency-Replayed"]) == (first.json(), "true")
    assert program.post(path, body).json() == first.json()
    assert HandOver.objects.count() == 1
    assert AuditEvent.objects.filter(action="connection.handed_over").count() == 1


def test_the_previous_owner_no_longer_sees_the_connection(bob: User, dave: User, connection: Connection) -> None:
    path, program = f"connections/{connection.pk}/hand-over", Program(bob)
    assert program.post(path, {"new_owner": "dave"}, idempotency_key="once").status_code == 200
    assert problem(program.post(path, {"new_owner": "dave"})) == NOT_FOUND
    assert problem(program.post(path, {"new_owner": "dave"}, idempotency_key="once")) == NOT_FOUND
    assert HandOver.objects.count() == 1


def test_a_connection_that_changed_owner_meanwhile_is_not_transferred(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=dave)
    factories.make_person("max")
    answer = Program(alice).post(
        f"connections/{connection.pk}/hand-over", {"new_owner": "max", "seen_owner_id": bob.pk}
    )
    assert problem(answer) == (422, "invalid_input")
    assert "was transferred to Dave Stranger" in answer.json()["detail"]
    assert not HandOver.objects.exists()


def test_ownership_is_only_transferred_to_possible_owners(
    alice: User, bob: User, carol: User, dave: User, connection: Connection
) -> None:
    robot = factories.make_service_account()
    path, program = f"connections/{connection.pk}/hand-over", Program(alice)
    assert wrong_fields(program.post(path, {"new_owner": "carol"})) == {"new_owner"}
    assert wrong_fields(program.post(path, {"new_owner": "nobody"})) == {"new_owner"}
    assert wrong_fields(program.post(path, {"new_owner_id": robot.pk})) == {"new_owner_id"}
    assert wrong_fields(program.post(path, {"new_owner_id": 2**53})) == {"new_owner_id"}
    factories.make_connection(owner=dave)
    response = program.post(path, {"new_owner": "dave"})
    assert (problem(response), response.json()["errors"][0]["field"]) == ((409, "already_exists"), "new_name")
    app_only = factories.make_app_only_connection(owner=bob)
    assert Program(bob).post(f"connections/{app_only.pk}/hand-over", {"new_owner": "dave"}).status_code == 422
    assert not HandOver.objects.exists()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"new_owner"}),
        ({"new_owner": "dave", "new_owner_id": 1}, {"new_owner"}),
        ({"new_owner": "da\x00ve"}, {"new_owner"}),
        ({"new_owner_id": "7"}, {"new_owner_id"}),
        ({"new_owner": "dave", "grant": "perhaps"}, {"grant"}),
        ({"new_owner": "dave", "newname": "x"}, {"newname"}),
    ],
)
def test_an_invalid_body_is_refused_with_its_fields(
    body: dict[str, Any], fields: set[str], alice: User, dave: User
) -> None:
    connection = factories.make_connection(owner=alice)
    assert wrong_fields(Program(alice).post(f"connections/{connection.pk}/hand-over", body)) == fields


def test_only_the_owner_and_it_admins_transfer_ownership(
    bob: User, carol: User, dave: User, connection: Connection
) -> None:
    shared_with = factories.make_person("max")
    Share.objects.create(connection=connection, person=shared_with, level=Share.Level.MANAGE, created_by=bob)
    path = f"connections/{connection.pk}/hand-over"
    for person, expected in ((shared_with, 403), (carol, 403), (dave, 404)):
        program = Program(person)
        assert program.get(path).status_code == program.post(path, {"new_owner": "dave"}).status_code == expected
    narrowed = Program(bob, only=[factories.make_connection(owner=bob, name="Another")], name="narrowed")
    assert narrowed.post(path, {"new_owner": "dave"}).status_code == 404
    reading = Program(bob, scopes=["connections:read"])
    assert problem(reading.post(path, {"new_owner": "dave"})) == NOT_ALLOWED
    assert not HandOver.objects.exists()


def test_the_consequences_name_the_keys_that_stop_and_those_that_stay(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    Share.objects.create(connection=connection, person=dave, created_by=bob)
    program = Program(bob, name="Bob's robot")
    record_fetches(connection, program.key)
    record_fetches(connection, factories.make_key(dave, name="Dave's robot")[0])
    path = f"connections/{connection.pk}/hand-over"
    meaning = program.get(path).json()
    assert [(item["name"], item["count"]) for item in meaning["keys_that_stop"]] == [("Bob's robot", 3)]
    assert [item["name"] for item in meaning["keys_that_go_on"]] == ["Dave's robot"]
    assert meaning["shares"] == ["Dave Stranger"]
    assert (meaning["needs_sign_in"], meaning["can_keep_grant"], meaning["unfinished"]) == (True, True, None)
    Program(alice).post(path, {"new_owner": "dave", "grant": "cut"})
    after = Program(alice).get(path).json()
    assert (after["owner_id"], after["can_keep_grant"]) == (dave.pk, False)
    assert after["unfinished"]["to_owner_id"] == dave.pk


def test_all_connections_of_a_person_are_transferred(alice: User, bob: User, dave: User) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Orders")
    path, program = f"people/{bob.pk}/hand-over", Program(alice)
    answer = program.post(path, {"new_owner": "dave"}).json()
    assert [item["connection_id"] for item in answer["done"]] == [first.pk, second.pk]
    assert (answer["failed"], answer["not_theirs"], answer["left"]) == ([], [], 0)
    assert set(Connection.objects.values_list("owner", flat=True)) == {dave.pk}
    again = program.post(path, {"new_owner": "dave", "connection_ids": [first.pk]}).json()
    assert again == {"done": [], "failed": [], "not_theirs": [first.pk], "left": 0}
    assert HandOver.objects.count() == 2


def test_a_failed_transfer_does_not_hold_up_the_others(alice: User, bob: User, dave: User) -> None:
    taken, free = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Orders")
    factories.make_connection(owner=dave)
    answer = Program(alice).post(f"people/{bob.pk}/hand-over", {"new_owner_id": dave.pk, "grant": "cut"}).json()
    assert [item["connection_id"] for item in answer["done"]] == [free.pk]
    assert [(item["connection_id"], item["code"]) for item in answer["failed"]] == [(taken.pk, "already_exists")]
    assert answer["left"] == 1


def test_only_chosen_connections_of_that_person_are_transferred(alice: User, bob: User, dave: User) -> None:
    chosen, stays = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Orders")
    foreign = factories.make_connection(owner=alice, name="Mine")
    body = {"new_owner": "dave", "connection_ids": [foreign.pk, chosen.pk, 2**53]}
    answer = Program(alice).post(f"people/{bob.pk}/hand-over", body).json()
    assert [item["connection_id"] for item in answer["done"]] == [chosen.pk]
    assert (answer["not_theirs"], answer["left"]) == ([foreign.pk, 2**53], 1)
    owners = dict(Connection.objects.values_list("pk", "owner"))
    assert owners == {chosen.pk: dave.pk, stays.pk: bob.pk, foreign.pk: alice.pk}


def test_only_it_admins_transfer_the_connections_of_a_person(alice: User, bob: User, carol: User, dave: User) -> None:
    factories.make_connection(owner=bob)
    robot, path, body = factories.make_service_account(), f"people/{bob.pk}/hand-over", {"new_owner": "dave"}
    for person in (bob, carol, dave):
        program = Program(person)
        assert problem(program.get(path)) == problem(program.post(path, body)) == NOT_ALLOWED
    program = Program(alice)
    for stranger in (robot.pk, 10**9):
        assert program.get(f"people/{stranger}/hand-over").status_code == 404
        assert program.post(f"people/{stranger}/hand-over", body).status_code == 404
    assert wrong_fields(program.post(path, {"new_owner": "bob"})) == {"new_owner"}
    assert wrong_fields(program.post(path, body | {"connection_ids": []})) == {"connection_ids"}
    assert problem(Program(alice, only=[]).post(path, body)) == NOT_ALLOWED
    assert not HandOver.objects.exists()


def test_a_persons_connections_and_keys_are_paged(alice: User, bob: User, max_queries: Any) -> None:
    for name in ("C", "A", "B"):
        factories.make_connection(owner=bob, name=name)
    key, _ = factories.make_key(bob, name="Robot")
    record_fetches(Connection.objects.get(name="B"), key)
    account = factories.make_service_account(responsible=bob)
    program, path = Program(alice), f"people/{bob.pk}/hand-over"
    first = program.get(path, limit=2).json()
    assert [item["connection_name"] for item in first["items"]] == ["A", "B"]
    assert [item["name"] for item in first["items"][1]["keys_that_stop"]] == ["Robot"]
    assert first["keys"] == [{"id": key.pk, "name": "Robot", "fetched": ["B"]}]
    assert [item["id"] for item in first["service_accounts"]] == [account.pk]
    with max_queries(14):
        rest = program.get(path, limit=2, after=first["next"]).json()
    assert ([item["connection_name"] for item in rest["items"]], rest["next"]) == (["C"], None)
    assert wrong_fields(program.get(path, after="nonsense")) == {"after"}
