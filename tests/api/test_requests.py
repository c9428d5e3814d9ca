"""What every route of the API does alike: pages, If-Match, Idempotency-Key, methods, and bodies that are no use."""

from __future__ import annotations

import base64
import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections as databases
from django.db.models import TextChoices
from django.http import HttpRequest
from django.test import Client
from django.utils import timezone
from ninja import Schema

from connections.api import etags, openapi
from connections.api.urls import api
from connections.models import AuditEvent, StoredReply, Team, TokenFetch, User
from connections.services.api_keys import idempotency
from connections.services.sharing import teams
from tests import factories
from tests.api.api_client import Program, told, wrong_fields

pytestmark = pytest.mark.django_db


# --- Lists ----------------------------------------------------------------------------------------


def test_pages_follow_each_other_without_gap_or_repetition(alice: User) -> None:
    for number in range(7):
        Team.objects.create(name=f"Team {number}")
    program, seen, after = Program(alice), [], ""
    for _ in range(4):
        page = program.get("teams", limit=3, after=after).json()
        seen += [one["name"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"Team {number}" for number in range(7)]


def test_what_is_added_or_removed_while_paging_moves_nothing(alice: User) -> None:
    for name in "BDFH":
        Team.objects.create(name=name)
    program = Program(alice)
    first = program.get("teams", limit=2).json()
    Team.objects.create(name="A")
    Team.objects.filter(name="D").delete()
    second = program.get("teams", limit=2, after=first["next"]).json()
    assert [one["name"] for one in second["items"]] == ["F", "H"]


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJhIl0", "%00", "WyJhIiwgIjk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ"])
def test_a_cursor_of_something_else_is_refused_instead_of_starting_over(alice: User, cursor: str) -> None:
    """A program that started over would run in circles."""
    answer = Program(alice).get("teams", after=cursor)
    assert answer.status_code in (200, 422)
    assert answer.status_code == 422 or answer.json()["items"] == []


@pytest.mark.parametrize(
    "moment", ["0001-01-01 00:00:00+14:00", "9999-12-31 23:59:59-14:00", "2026-01-01 00:00:00", "2026-01-01", "soon"]
)
def test_a_cursor_with_a_moment_no_database_takes_is_refused(alice: User, moment: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([moment, "1"]).encode()).decode()
    assert told(Program(alice).get("incidents", after=cursor)) == (422, "invalid_input")


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "9" * 30])
def test_a_page_has_between_one_and_two_hundred_items(alice: User, limit: str) -> None:
    assert wrong_fields(Program(alice).get("teams", limit=limit)) == {"limit"}


@pytest.mark.parametrize("path", ["teams", "people", "tenants"])
def test_a_list_costs_the_same_however_long_it_is(alice: User, django_assert_max_num_queries: Any, path: str) -> None:
    program = Program(alice)
    for number in range(30):
        Team.objects.create(name=f"Team {number}")
        factories.make_tenant(name=f"Tenant {number}", directory_id=f"t{number}.example", tid="")
        factories.make_person(f"person{number}")
    with django_assert_max_num_queries(4):
        assert len(program.get(path, limit=25).json()["items"]) == 25


# --- If-Match -------------------------------------------------------------------------------------


def test_a_change_with_the_present_etag_is_made_and_gives_a_new_one(alice: User) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    read = program.get(f"teams/{team.pk}")
    changed = program.patch(f"teams/{team.pk}", {"name": "Sold"}, if_match=read["ETag"])
    assert (changed.status_code, changed.json()["name"]) == (200, "Sold")
    assert changed["ETag"] != read["ETag"]
    assert program.get(f"teams/{team.pk}")["ETag"] == changed["ETag"]


@pytest.mark.parametrize("wanted", ['"of another state"', "W/{etag}", "rubbish"])
def test_a_change_of_what_was_changed_meanwhile_is_refused(alice: User, wanted: str) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    wanted = wanted.replace("{etag}", program.get(f"teams/{team.pk}")["ETag"])
    for method in ("patch", "delete"):
        answer = program.send(method, f"teams/{team.pk}", {"name": "Mine"}, if_match=wanted)
        assert told(answer) == (412, "changed_meanwhile")
    assert Team.objects.get().name == "Sales"


@pytest.mark.parametrize("wanted", ["*", '"a", {etag}', "{etag}"])
def test_if_match_may_name_several_states_or_any(alice: User, wanted: str) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    wanted = wanted.replace("{etag}", program.get(f"teams/{team.pk}")["ETag"])
    assert program.patch(f"teams/{team.pk}", {"name": "Mine"}, if_match=wanted).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_changes_of_the_same_state_one_is_made(alice: User) -> None:
    team = Team.objects.create(name="Sales")
    programs = [Program(alice, name=f"Key {number}") for number in range(2)]
    read = programs[0].get(f"teams/{team.pk}")["ETag"]
    got: list[int] = []

    def change(program: Program, name: str) -> None:
        try:
            got.append(program.patch(f"teams/{team.pk}", {"name": name}, if_match=read).status_code)
        finally:
            databases.close_all()

    threads = [threading.Thread(target=change, args=(one, f"By {i}")) for i, one in enumerate(programs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(got) == [200, 412]
    assert AuditEvent.objects.filter(action="team.changed").count() == 1


def test_the_state_is_looked_at_under_the_lock(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changed it between the look and the lock is not overwritten."""
    team = Team.objects.create(name="Sales")
    program = Program(alice)
    read = program.get(f"teams/{team.pk}")["ETag"]
    right = etags.lock_matching

    def late(request: HttpRequest, row: Any, columns: Any) -> Any:
        Team.objects.filter(pk=row.pk).update(name="Somebody else's")
        return right(request, row, columns)

    monkeypatch.setattr(etags, "lock_matching", late)
    assert told(program.patch(f"teams/{team.pk}", {"name": "Mine"}, if_match=read)) == (412, "changed_meanwhile")
    assert program.delete(f"teams/{team.pk}", if_match=read).status_code == 412


# --- Idempotency-Key ------------------------------------------------------------------------------


def test_the_same_request_twice_is_done_once_and_answered_twice(alice: User) -> None:
    program = Program(alice)
    first = program.post("teams", {"name": "Sales"}, idempotency_key="one")
    again = program.post("teams", {"name": "Sales"}, idempotency_key="one")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (first["ETag"], first["Location"]) == (again["ETag"], again["Location"])
    assert ("Idempotency-Replayed" in first, again["Idempotency-Replayed"]) == (False, "true")
    assert Team.objects.count() == 1


def test_another_request_with_the_same_idempotency_key_is_refused(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    assert told(program.post("teams", {"name": "Finance"}, idempotency_key="one")) == (422, "idempotency_key_reused")
    assert Team.objects.count() == 1


def test_idempotency_keys_of_two_api_keys_are_two(alice: User) -> None:
    first, second = Program(alice), Program(alice, name="Other")
    assert first.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201
    assert told(second.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "already_exists")


def test_a_request_that_was_refused_may_be_sent_again(alice: User) -> None:
    program, team = Program(alice), Team.objects.create(name="Sales")
    assert told(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "already_exists")
    team.delete()
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201


def test_a_request_that_broke_may_be_sent_again(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(alice)
    program.client.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.setattr(teams, "add", lambda *args, **kwargs: 1 / 0)
        assert told(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (500, "internal_error")
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201


def test_a_request_that_still_runs_is_not_done_a_second_time(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    StoredReply.objects.update(status=None, answer=None)
    assert told(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "in_progress")


def test_a_request_whose_worker_was_killed_is_taken_over_after_a_while(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    Team.objects.all().delete()
    StoredReply.objects.update(
        status=None, answer=None, started_at=timezone.now() - idempotency.MAX_RUN_TIME - timedelta(seconds=1)
    )
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201
    assert StoredReply.objects.get().status == 201


def test_answers_are_kept_encrypted_for_a_day(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "A recognisable name"}, idempotency_key="A recognisable key")
    with databases["default"].cursor() as cursor:
        cursor.execute("SELECT * FROM connections_storedreply")
        stored = str(cursor.fetchall())
    assert "ecognisable" not in stored
    now = timezone.now()
    assert idempotency.prune(now=now + timedelta(hours=23)) == 0
    StoredReply.objects.update(started_at=now - timedelta(hours=25))
    assert program.post("teams", {"name": "Another"}, idempotency_key="A recognisable key").status_code == 201
    assert idempotency.prune(now=now + timedelta(hours=25)) == 1
    assert not StoredReply.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_many_same_requests_at_once_one_is_done(alice: User) -> None:
    program = Program(alice)
    got: list[Any] = []

    def send() -> None:
        try:
            client = Client(headers={"Authorization": f"Bearer {program.text}", "Idempotency-Key": "one"})
            got.append(client.post("/api/v1/teams", {"name": "Sales"}, content_type="application/json"))
        finally:
            databases.close_all()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    codes = {answer.status_code for answer in got}
    assert len(got) == 6
    assert codes <= {201, 409}
    assert {answer.json().get("code", "in_progress") for answer in got} == {"in_progress"}
    assert Team.objects.count() == 1
    assert AuditEvent.objects.filter(action="team.added").count() == 1


def test_every_post_knows_the_idempotency_key() -> None:
    posts = [
        operation.view_func
        for router in api._get_bound_routers()
        for view in router.path_operations.values()
        for operation in view.operations
        if "POST" in operation.methods
    ]
    assert posts
    assert all(hasattr(view, "is_idempotent") for view in posts)


def test_an_idempotency_key_that_is_too_long_is_refused(alice: User) -> None:
    assert wrong_fields(Program(alice).post("teams", {"name": "X"}, idempotency_key="x" * 256)) == {"Idempotency-Key"}


# --- Bodies and methods ---------------------------------------------------------------------------


def test_what_is_no_json_is_told_as_such(alice: User) -> None:
    program = Program(alice)
    for body in ("{", "", "[1,", "\x00", "[" * 100_000):
        answer = program.client.post("/api/v1/teams", body, content_type="application/json")
        assert answer.status_code in (400, 422), body[:10]
        assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"name"}),
        ({"name": ""}, {"name"}),
        ({"name": " "}, {"name"}),
        ({"name": "a\x00b"}, {"name"}),
        ({"name": "\ud800"}, {"name"}),
        ({"name": "x" * 121}, {"name"}),
        ({"name": 5}, {"name"}),
        ({"name": "Sales", "colour": "red"}, {"colour"}),
        ({"name": "Sales", "id": 7}, {"id"}),
        ([], {""}),
        ("Sales", {""}),
        (None, {""}),
    ],
)
def test_a_body_that_cannot_be_used_names_its_fields(alice: User, body: Any, fields: set[str]) -> None:
    program = Program(alice)
    answer = program.client.post("/api/v1/teams", json.dumps(body), content_type="application/json")
    assert wrong_fields(answer) == fields
    assert not Team.objects.exists()


def test_a_body_that_is_too_big_is_told_as_such(alice: User) -> None:
    assert told(Program(alice).post("teams", {"name": "x" * 300_000})) == (413, "too_large")


def test_head_is_get_without_the_body(alice: User) -> None:
    program = Program(alice)
    answer = program.client.head("/api/v1/teams")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer["Content-Length"]) == len(program.get("teams").content)


def test_head_of_a_token_takes_none_away(bob: User) -> None:
    connection = factories.make_connection(access_token="x" * 20, expires_at=timezone.now() + timedelta(hours=1))
    program = Program(bob)
    answer = program.client.head(f"/api/v1/connections/{connection.pk}/token")
    assert (answer.status_code, answer.content) == (200, b"")
    assert not TokenFetch.objects.exists()
    assert program.get(f"connections/{connection.pk}/token").status_code == 200
    assert TokenFetch.objects.count() == 1


def test_head_of_an_export_starts_none(carol: User, alice: User) -> None:
    answer = Program(carol).client.head("/api/v1/audit-events/export")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    assert not AuditEvent.objects.filter(action__startswith="audit.export").exists()
    assert Program(alice).client.head("/api/v1/audit-events/export").status_code == 403


@pytest.mark.parametrize("path", ["connections", "teams", "people", "me", "audit-events/export", "connections/1/token"])
def test_a_misspelt_parameter_is_refused_and_the_known_ones_are_named(alice: User, path: str) -> None:
    factories.make_connection(pk=1, owner=alice)
    answer = Program(alice).get(path, stauts="active")
    assert told(answer) == (400, "unknown_parameter")
    assert [one["field"] for one in answer.json()["errors"]] == ["stauts"]
    assert "stauts" in answer.json()["detail"]


def test_a_list_names_the_parameters_it_knows(bob: User) -> None:
    action = Program(bob).get("connections", stauts="active").json()["action"]
    assert "status" in action
    assert "limit" in action


def test_without_a_key_nothing_is_told_of_parameters(client: Client) -> None:
    assert told(client.get("/api/v1/connections", {"stauts": "active"}))[0] == 401


def test_the_list_of_people_knows_the_service_accounts_that_can_be_shared_with(alice: User) -> None:
    robots = factories.make_service_account()
    kinds = {one["id"]: one["kind"] for one in Program(alice).get("people").json()["items"]}
    assert kinds == {alice.pk: "person", robots.pk: "service"}


def test_a_replay_tells_nothing_that_the_key_may_no_longer_see(alice: User, bob: User) -> None:
    mine = factories.make_connection(owner=bob)
    program = Program(bob)
    path = f"connections/{mine.pk}/disable"
    assert program.post(path, idempotency_key="once").status_code == 200
    assert program.post(path, idempotency_key="once")["Idempotency-Replayed"] == "true"
    mine.owner = alice
    mine.save(update_fields=["owner"])
    assert told(program.post(path, idempotency_key="once")) == (404, "not_found")


def test_a_replay_tells_nothing_to_who_is_no_longer_it_admin(alice: User) -> None:
    program = Program(alice)
    assert program.post("teams", {"name": "Sales"}, idempotency_key="once").status_code == 201
    assert program.post("teams", {"name": "Sales"}, idempotency_key="once")["Idempotency-Replayed"] == "true"
    alice.groups.clear()
    assert told(program.post("teams", {"name": "Sales"}, idempotency_key="once")) == (403, "not_allowed")


def test_options_tell_the_methods(client: Client) -> None:
    answer = client.options("/api/v1/teams")
    assert (answer.status_code, answer["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(alice: User) -> None:
    answer = Program(alice).send("put", "teams")
    assert told(answer) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize("path", ["nothing", "teams/", "teams/x", "teams/-1", "teams/" + "9" * 5000, "teams/1/2/3"])
def test_an_unknown_address_is_a_problem(alice: User, path: str) -> None:
    assert told(Program(alice).get(path)) == (404, "not_found")


def test_what_breaks_is_a_problem_too(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(alice)
    program.client.raise_request_exception = False
    monkeypatch.setattr(teams, "add", lambda *args, **kwargs: 1 / 0)
    answer = program.post("teams", {"name": "Sales"})
    assert told(answer) == (500, "internal_error")
    assert "ZeroDivision" not in answer.content.decode()


# --- The document -----------------------------------------------------------------------------------


def _documented() -> list[tuple[str, str, dict[str, Any]]]:
    paths = api.get_openapi_schema()["paths"]
    return [(path, method, facts) for path, methods in paths.items() for method, facts in methods.items()]


def test_every_operation_is_documented_whole() -> None:
    names = [facts["operationId"] for _, _, facts in _documented()]
    assert len(names) == len(set(names)) > 50
    for path, method, facts in _documented():
        where = f"{method} {path}"
        assert facts["summary"], where
        assert facts["description"], where
        assert facts["tags"][0] in openapi.TAGS, where
        assert facts["security"] == [{"KeyAuth": []}], where
        assert {"401", "403", "414", "422", "429"} <= set(facts["responses"]), where
        assert ("{" in path) <= ("404" in facts["responses"]), where
        if "requestBody" in facts:
            assert {"400", "413"} <= set(facts["responses"]), where
            assert facts["requestBody"]["content"]["application/json"]["example"], where
        if method == "post":
            assert {"$ref": "#/components/parameters/IdempotencyKey"} in facts["parameters"], where
            assert "409" in facts["responses"], where
        if method == "patch":
            assert "412" in facts["responses"], where
            assert {"$ref": "#/components/parameters/IfMatch"} in facts["parameters"], where
        for status, answer in facts["responses"].items():
            kinds = set(answer.get("content", {}))
            assert kinds == (
                {openapi.PROBLEM}
                if status >= "400"
                else kinds & {"application/json", "application/x-ndjson", "text/csv"}
            ), where
            assert answer["description"], where


def test_every_example_of_a_body_is_accepted_by_its_own_schema() -> None:
    """Whoever copies one from the reference must not be refused for its form."""
    bodies = {
        facts["operationId"]: facts["requestBody"]["content"]["application/json"]["example"]
        for _, _, facts in _documented()
        if "requestBody" in facts
    }
    for router in api._get_bound_routers():
        for view in router.path_operations.values():
            for operation in view.operations:
                example = bodies.get(operation.view_func.__name__)
                if example is None:
                    continue
                (entry,) = [model for model in operation.models if model.__ninja_param_source__ == "body"]
                entry.model_validate({next(iter(entry.model_fields)): example})


def test_no_two_things_share_a_name_in_the_document() -> None:
    """One would be described as the other."""
    seen: dict[str, type] = {}
    waiting = [Schema, TextChoices]
    while waiting:
        for found in waiting.pop().__subclasses__():
            waiting.append(found)
            if found.__module__.startswith("connections.api."):
                assert seen.setdefault(found.__name__, found) is found, found
    components = api.get_openapi_schema()["components"]["schemas"]
    assert set(components) <= set(seen), "enumerations are listed in place"


# --- Scopes ---------------------------------------------------------------------------------------


def test_scope_and_right_must_both_allow(alice: User, bob: User) -> None:
    body = {"name": "Sales"}
    assert told(Program(alice, scopes=["admin:read"]).post("teams", body)) == (403, "not_allowed")
    assert told(Program(bob).post("teams", body)) == (403, "not_allowed")
    assert Program(alice, name="Other", scopes=["admin:write"]).post("teams", body).status_code == 201


@pytest.mark.parametrize("path", ["teams", "people", "tenants"])
def test_a_key_of_chosen_connections_does_not_administer(alice: User, path: str) -> None:
    program = Program(alice, only=[factories.make_connection()])
    assert told(program.get(path)) == (403, "not_allowed")
    assert told(program.post("teams", {"name": "Sales"})) == (403, "not_allowed")
