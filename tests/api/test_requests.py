"""What all routes share: pages, If-Match, Idempotency-Key, methods, invalid bodies, and the OpenAPI document."""

import base64
import json
from datetime import timedelta
from functools import partial
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
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, at_once, problem, wrong_fields


def test_pages_follow_each_other_without_gap_or_repetition(alice: User) -> None:
    for number in range(7):
        Team.objects.create(name=f"Team {number}")
    program, seen, after = Program(alice), [], ""
    for _ in range(4):
        page = program.get("teams", limit=3, after=after).json()
        seen += [item["name"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"Team {number}" for number in range(7)]


def test_rows_added_or_removed_while_paging_do_not_shift_pages(alice: User) -> None:
    for name in "BDFH":
        Team.objects.create(name=name)
    program = Program(alice)
    first = program.get("teams", limit=2).json()
    Team.objects.create(name="A")
    Team.objects.filter(name="D").delete()
    second = program.get("teams", limit=2, after=first["next"]).json()
    assert [item["name"] for item in second["items"]] == ["F", "H"]


@pytest.mark.parametrize("cursor", ["x", "W10", "WyJhIl0", "%00", "WyJhIiwgIjk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXQ"])
def test_a_cursor_of_something_else_is_refused_instead_of_starting_over(alice: User, cursor: str) -> None:
    """A program that was sent back to the first page would never finish."""
    answer = Program(alice).get("teams", after=cursor)
    assert answer.status_code in (200, 422)
    assert answer.status_code == 422 or answer.json()["items"] == []


@pytest.mark.parametrize(
    "moment", ["0001-01-01 00:00:00+14:00", "9999-12-31 23:59:59-14:00", "2026-01-01 00:00:00", "2026-01-01", "soon"]
)
def test_a_cursor_with_a_moment_no_database_takes_is_refused(alice: User, moment: str) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps([moment, "1"]).encode()).decode()
    assert problem(Program(alice).get("incidents", after=cursor)) == (422, "invalid_input")


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "9" * 30])
def test_a_page_has_between_one_and_two_hundred_items(alice: User, limit: str) -> None:
    assert wrong_fields(Program(alice).get("teams", limit=limit)) == {"limit"}


@pytest.mark.parametrize("path", ["teams", "people", "tenants"])
def test_a_list_costs_the_same_however_long_it_is(alice: User, max_queries: Any, path: str) -> None:
    program = Program(alice)
    for number in range(30):
        Team.objects.create(name=f"Team {number}")
        factories.make_tenant(name=f"Tenant {number}", directory_id=f"t{number}.example", tid="")
        factories.make_person(f"person{number}")
    with max_queries(4):
        assert len(program.get(path, limit=25).json()["items"]) == 25


def test_a_change_with_the_current_etag_succeeds_and_returns_a_new_one(alice: User) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    read = program.get(f"teams/{team.pk}")
    changed = program.patch(f"teams/{team.pk}", {"name": "Sold"}, if_match=read["ETag"])
    assert (changed.status_code, changed.json()["name"]) == (200, "Sold")
    assert changed["ETag"] != read["ETag"]
    assert program.get(f"teams/{team.pk}")["ETag"] == changed["ETag"]


@pytest.mark.parametrize("wanted", ['"of another state"', "W/{etag}", "rubbish"])
def test_a_change_with_an_outdated_etag_is_refused(alice: User, wanted: str) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    wanted = wanted.replace("{etag}", program.get(f"teams/{team.pk}")["ETag"])
    for method in ("patch", "delete"):
        answer = program.send(method, f"teams/{team.pk}", {"name": "Mine"}, if_match=wanted)
        assert problem(answer) == (412, "changed_meanwhile")
    assert Team.objects.get().name == "Sales"


@pytest.mark.parametrize("wanted", ["*", '"a", {etag}', "{etag}"])
def test_if_match_accepts_a_list_of_etags_or_any(alice: User, wanted: str) -> None:
    team, program = Team.objects.create(name="Sales"), Program(alice)
    wanted = wanted.replace("{etag}", program.get(f"teams/{team.pk}")["ETag"])
    assert program.patch(f"teams/{team.pk}", {"name": "Mine"}, if_match=wanted).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_only_one_of_two_simultaneous_changes_succeeds(alice: User) -> None:
    team = Team.objects.create(name="Sales")
    etag = Program(alice).get(f"teams/{team.pk}")["ETag"]
    changes = [partial(Program(alice).patch, f"teams/{team.pk}", {"name": name}, if_match=etag) for name in ("A", "B")]
    assert sorted(response.status_code for response in at_once(*changes)) == [200, 412]
    assert AuditEvent.objects.filter(action="team.changed").count() == 1


def test_if_match_is_compared_under_the_lock(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lock, a change made after the comparison could be overwritten."""
    team = Team.objects.create(name="Sales")
    program = Program(alice)
    read = program.get(f"teams/{team.pk}")["ETag"]
    right = etags.lock_matching

    def late(request: HttpRequest, row: Any, columns: Any) -> Any:
        Team.objects.filter(pk=row.pk).update(name="Somebody else's")
        return right(request, row, columns)

    monkeypatch.setattr(etags, "lock_matching", late)
    assert problem(program.patch(f"teams/{team.pk}", {"name": "Mine"}, if_match=read)) == (412, "changed_meanwhile")
    assert program.delete(f"teams/{team.pk}", if_match=read).status_code == 412


def test_a_repeated_request_is_executed_once_and_answered_twice(alice: User) -> None:
    program = Program(alice)
    first = program.post("teams", {"name": "Sales"}, idempotency_key="one")
    again = program.post("teams", {"name": "Sales"}, idempotency_key="one")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (first["ETag"], first["Location"]) == (again["ETag"], again["Location"])
    assert ("Idempotency-Replayed" in first, again["Idempotency-Replayed"]) == (False, "true")
    assert Team.objects.count() == 1


def test_a_different_request_with_the_same_idempotency_key_is_refused(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    assert problem(program.post("teams", {"name": "Finance"}, idempotency_key="one")) == (422, "idempotency_key_reused")
    assert Team.objects.count() == 1


def test_idempotency_keys_belong_to_an_api_key(alice: User) -> None:
    first, second = Program(alice), Program(alice)
    assert first.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201
    assert problem(second.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "already_exists")


def test_a_refused_request_may_be_repeated(alice: User) -> None:
    program, team = Program(alice), Team.objects.create(name="Sales")
    assert problem(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "already_exists")
    team.delete()
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201


def test_a_failed_request_may_be_repeated(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(alice)
    program.client.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.setattr(teams, "add", lambda *args, **kwargs: 1 / 0)
        assert problem(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (500, "internal_error")
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201


def test_a_request_in_progress_is_not_started_again(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    StoredReply.objects.update(status=None, answer=None)
    assert problem(program.post("teams", {"name": "Sales"}, idempotency_key="one")) == (409, "in_progress")


def test_a_request_of_a_killed_worker_may_be_repeated_later(alice: User) -> None:
    program = Program(alice)
    program.post("teams", {"name": "Sales"}, idempotency_key="one")
    Team.objects.all().delete()
    StoredReply.objects.update(
        status=None, answer=None, started_at=timezone.now() - idempotency.MAX_RUN_TIME - timedelta(seconds=1)
    )
    assert program.post("teams", {"name": "Sales"}, idempotency_key="one").status_code == 201
    assert StoredReply.objects.get().status == 201


def test_replies_are_stored_encrypted_for_a_day(alice: User) -> None:
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
def test_only_one_of_many_simultaneous_equal_requests_is_executed(alice: User) -> None:
    program = Program(alice)
    headers = {"Authorization": f"Bearer {program.text}", "Idempotency-Key": "one"}

    def send() -> Any:
        return Client(headers=headers).post("/api/v1/teams", {"name": "Sales"}, content_type="application/json")

    answers = at_once(*[send] * 6)
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert {answer.json().get("code", "in_progress") for answer in answers} == {"in_progress"}
    assert Team.objects.count() == 1
    assert AuditEvent.objects.filter(action="team.added").count() == 1


def test_every_post_accepts_an_idempotency_key() -> None:
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


def test_invalid_json_is_a_problem(alice: User) -> None:
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
def test_an_invalid_body_is_refused_with_its_fields(alice: User, body: Any, fields: set[str]) -> None:
    answer = Program(alice).client.post("/api/v1/teams", json.dumps(body), content_type="application/json")
    assert wrong_fields(answer) == fields
    assert not Team.objects.exists()


def test_head_is_get_without_the_body(alice: User) -> None:
    program = Program(alice)
    answer = program.client.head("/api/v1/teams")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer["Content-Length"]) == len(program.get("teams").content)


def test_head_of_a_token_records_no_token_request(bob: User) -> None:
    connection = factories.make_connection(access_token="x" * 20, expires_at=timezone.now() + timedelta(hours=1))
    program = Program(bob)
    answer = program.client.head(f"/api/v1/connections/{connection.pk}/token")
    assert (answer.status_code, answer.content) == (200, b"")
    assert not TokenFetch.objects.exists()
    assert program.get(f"connections/{connection.pk}/token").status_code == 200
    assert TokenFetch.objects.count() == 1


def test_head_of_an_export_does_not_start_it(carol: User, alice: User) -> None:
    answer = Program(carol).client.head("/api/v1/audit-events/export")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    assert not AuditEvent.objects.filter(action__startswith="audit.export").exists()
    assert Program(alice).client.head("/api/v1/audit-events/export").status_code == 403


@pytest.mark.parametrize("path", ["connections", "teams", "people", "me", "audit-events/export", "connections/1/token"])
def test_a_misspelt_parameter_is_refused_and_the_known_ones_are_named(alice: User, path: str) -> None:
    factories.make_connection(pk=1, owner=alice)
    answer = Program(alice).get(path, stauts="active")
    assert problem(answer) == (400, "unknown_parameter")
    assert [error["field"] for error in answer.json()["errors"]] == ["stauts"]
    assert "stauts" in answer.json()["detail"]


def test_a_list_names_the_parameters_it_knows(bob: User) -> None:
    action = Program(bob).get("connections", stauts="active").json()["action"]
    assert "status" in action
    assert "limit" in action


def test_parameters_are_not_revealed_without_a_key(client: Client) -> None:
    assert problem(client.get("/api/v1/connections", {"stauts": "active"}))[0] == 401


def test_the_list_of_people_knows_the_service_accounts_that_can_be_shared_with(alice: User) -> None:
    robots = factories.make_service_account()
    kinds = {item["id"]: item["kind"] for item in Program(alice).get("people").json()["items"]}
    assert kinds == {alice.pk: "person", robots.pk: "service"}


def test_a_stored_reply_is_hidden_once_the_key_no_longer_sees_the_connection(alice: User, bob: User) -> None:
    own = factories.make_connection(owner=bob)
    program = Program(bob)
    path = f"connections/{own.pk}/disable"
    assert program.post(path, idempotency_key="once").status_code == 200
    assert program.post(path, idempotency_key="once")["Idempotency-Replayed"] == "true"
    own.owner = alice
    own.save(update_fields=["owner"])
    assert problem(program.post(path, idempotency_key="once")) == NOT_FOUND


def test_a_stored_reply_is_hidden_once_its_owner_is_no_longer_it_admin(alice: User) -> None:
    program = Program(alice)
    assert program.post("teams", {"name": "Sales"}, idempotency_key="once").status_code == 201
    assert program.post("teams", {"name": "Sales"}, idempotency_key="once")["Idempotency-Replayed"] == "true"
    alice.groups.clear()
    assert problem(program.post("teams", {"name": "Sales"}, idempotency_key="once")) == NOT_ALLOWED


def test_options_names_the_methods(client: Client) -> None:
    answer = client.options("/api/v1/teams")
    assert (answer.status_code, answer["Allow"]) == (204, "GET, HEAD, OPTIONS, POST")


def test_a_wrong_method_is_a_problem_that_names_the_right_ones(alice: User) -> None:
    answer = Program(alice).send("put", "teams")
    assert problem(answer) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "path",
    ["", "nothing/here", "teams/", "teams/x", "teams/-1", "teams/" + "9" * 5000, "teams/1/2/3", "%00", "..%2f..%2fetc"],
)
def test_an_unknown_address_is_a_problem(alice: User, path: str) -> None:
    assert problem(Program(alice).get(path)) == NOT_FOUND


def _documented() -> list[tuple[str, str, dict[str, Any]]]:
    paths = api.get_openapi_schema()["paths"]
    return [(path, method, facts) for path, methods in paths.items() for method, facts in methods.items()]


def test_every_operation_is_documented_completely() -> None:
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
    """A body copied from the reference must be valid."""
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


def test_schema_names_are_unique_in_the_document() -> None:
    """If two schemas had the same name, one would be described as the other."""
    seen: dict[str, type] = {}
    waiting: list[Any] = [Schema, TextChoices]
    while waiting:
        for subclass in waiting.pop().__subclasses__():
            waiting.append(subclass)
            if subclass.__module__.startswith("connections.api."):
                assert seen.setdefault(subclass.__name__, subclass) is subclass, subclass
    components = api.get_openapi_schema()["components"]["schemas"]
    assert set(components) <= set(seen), "enumerations are listed in place"


def test_both_scope_and_role_must_allow_a_call(alice: User, bob: User) -> None:
    body = {"name": "Sales"}
    assert problem(Program(alice, scopes=["admin:read"]).post("teams", body)) == NOT_ALLOWED
    assert problem(Program(bob).post("teams", body)) == NOT_ALLOWED
    assert Program(alice, scopes=["admin:write"]).post("teams", body).status_code == 201
