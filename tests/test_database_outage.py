"""While the database cannot be used, every page, API call and metric says 503 and when to try again; nothing is a 500."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import OperationalError
from django.db import connection as database
from django.test import Client

from connections.models import User
from connections.outages import is_database_outage
from connections.services.operations import write_check
from tests import factories, full_dataset, permissions_table
from tests.api.api_client import Program
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db


@contextmanager
def outage(message: str = "server closed the connection unexpectedly", *, writes_only: bool = False) -> Iterator[None]:
    def fail(execute: Any, sql: str, *arguments: Any) -> Any:
        if writes_only and sql.lstrip().upper().startswith(
            ("SELECT", "PRAGMA", "SET", "SAVEPOINT", "RELEASE", "ROLLBACK")
        ):
            return execute(sql, *arguments)
        raise OperationalError(message)

    with database.execute_wrapper(fail):
        yield


@pytest.mark.parametrize("path", ["/", "/connections/", "/apps/", "/incidents/", "/audit/", "/admin/", "/policy/"])
def test_pages_are_temporarily_unavailable(path: str, alice: User, signed_in: Callable[[User], Client]) -> None:
    client = signed_in(alice)
    client.raise_request_exception = False
    with outage():
        answer = client.get(path)
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    page = answer.content.decode()
    assert "Temporarily unavailable" in page
    assert "database_unavailable" in page
    assert "server closed" not in page
    assert answer["Content-Security-Policy"]


# Answered without the database, or from what the process already knows.
NEEDS_NO_DATABASE = {
    *("sign_in", "second_factor", "sign_in_link_done", "openid_configuration", "microsoft_errors"),
    *("healthz", "readyz", "api:openapi-json", "api:reference", "api:api-root"),
}


def unavailable(answer: Any) -> bool:
    return bool(answer.status_code == 503 and answer.headers.get("Retry-After"))


def test_every_page_says_when_to_try_again(contoso: full_dataset.World, signed_in: Callable[[User], Client]) -> None:
    client = signed_in(contoso.people["alice"])
    client.raise_request_exception = False
    posted = full_dataset.posted(contoso)
    wrong = {}
    for row in permissions_table.rows():
        if row.name.startswith("social:"):
            continue
        path = contoso.url(row.name, row.route.partition("/")[2])
        with outage():
            form = full_dataset.FILLED_IN | posted.get(row.name, {})
            answer = client.get(path) if row.method == "GET" else client.post(path, form)
        if row.name not in NEEDS_NO_DATABASE and not unavailable(answer):
            wrong[str(row)] = answer.status_code
    assert wrong == {}


def test_every_route_of_the_api_says_when_to_try_again(contoso: full_dataset.World) -> None:
    _, key = factories.make_key(contoso.people["alice"])
    posted = full_dataset.posted(contoso)
    client = PortalClient(headers={"Authorization": f"Bearer {key}"})
    client.raise_request_exception = False
    wrong = {}
    for row in permissions_table.api_rows():
        ask = getattr(client, row.method.lower())
        body = posted.get(row.name, {})
        with outage():
            path = contoso.url(row.name)
            answer = ask(path) if row.method == "GET" else ask(path, body, content_type="application/json")
        if row.name in NEEDS_NO_DATABASE:
            continue
        if not unavailable(answer) or answer.json().get("code") != "database_unavailable":
            wrong[str(row)] = answer.status_code
    assert wrong == {}


@pytest.mark.parametrize("path", ["/sign-in/", "/healthz"])
def test_what_needs_no_database_goes_on(path: str) -> None:
    with outage():
        assert Client().get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "connections"),
        ("get", "me"),
        ("post", "teams"),
        ("get", "connections/Invoices/token"),
        ("get", "people"),
    ],
)
@pytest.mark.parametrize(
    "message", ["server closed the connection unexpectedly", "database is locked", "database or disk is full"]
)
def test_programs_are_told_to_try_again(method: str, path: str, message: str, bob: User) -> None:
    factories.make_connection(owner=bob)
    program = Program(bob)
    program.client.raise_request_exception = False
    with outage(message):
        answer = program.send(method, path) if method == "post" else program.get(path)
    problem = answer.json()
    assert (answer.status_code, problem["code"], answer["Retry-After"]) == (503, "database_unavailable", "5")
    assert answer["Content-Type"] == "application/problem+json"
    assert message not in answer.content.decode()


def test_a_disk_that_is_full_refuses_what_writes(bob: User) -> None:
    program, tenant = Program(bob), factories.make_tenant()
    program.client.raise_request_exception = False
    with outage("database or disk is full", writes_only=True):
        answer = program.post("mailboxes", {"tenant_id": tenant.pk, "address": "support@contoso.example"})
        assert program.get("connections").status_code == 200
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")


@pytest.mark.only_on("postgres")
def test_a_tablespace_that_is_full(bob: User) -> None:
    """PostgreSQL's own error, SQLSTATE 53100, of whatever writes to the two tables."""
    program, tenant = Program(bob), factories.make_tenant()
    program.client.raise_request_exception = False
    with database.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION pg_temp.full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = '53100'; END $$"
        )
        for table in ("connections_sharedmailbox", "connections_tokenfetch"):
            cursor.execute(f"CREATE TRIGGER full_disk BEFORE INSERT ON {table} EXECUTE FUNCTION pg_temp.full_disk()")
    connection = factories.make_connection(owner=bob)
    answers = [
        program.post("mailboxes", {"tenant_id": tenant.pk, "address": "support@contoso.example"}),
        program.get(f"connections/{connection.pk}/token"),  # which is handed out only if that is recorded
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer["Retry-After"] == "5"
        assert "extend" not in answer.content.decode()


def test_metrics_say_so_in_plain_text() -> None:
    with outage():
        answer = PortalClient().get("/metrics")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("message", ["database or disk is full", "database is locked"])
def test_readyz_sees_a_database_that_can_only_be_read(message: str) -> None:
    write_check._last_success.clear()
    assert Client().get("/readyz").json()["parts"]["database"]["ok"]
    write_check._last_success.clear()
    with outage(message, writes_only=True):
        answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert not answer.json()["parts"]["database"]["ok"]


@pytest.mark.only_on("sqlite")
@pytest.mark.django_db(transaction=True)
def test_readyz_sees_a_lock_that_nobody_releases() -> None:
    write_check._last_success.clear()
    other = sqlite3.connect(database.settings_dict["NAME"], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        answer = Client().get("/readyz")
    finally:
        other.close()
    assert answer.status_code == 503
    assert not answer.json()["parts"]["database"]["ok"]
    assert Client().get("/readyz").json()["parts"]["database"]["ok"]


def test_readyz_writes_once_in_a_few_seconds_however_many_ask() -> None:
    write_check._last_success.clear()
    written = []

    def count(execute: Any, sql: str, *arguments: Any) -> Any:
        written.extend([sql] if sql.startswith("UPDATE") else [])
        return execute(sql, *arguments)

    with database.execute_wrapper(count):
        for _ in range(5):
            Client().get("/readyz")
    assert len(written) == 1


def test_a_mistake_of_the_portal_is_still_a_500(
    alice: User, signed_in: Callable[[User], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from connections.views import home

    def crash(*arguments: Any) -> None:
        raise RuntimeError("x")

    monkeypatch.setattr(home, "_admin_context", crash, raising=False)
    monkeypatch.setattr(home, "_member_context", crash)
    client = signed_in(alice)
    client.raise_request_exception = False
    assert client.get("/").status_code == 500
    assert not is_database_outage(RuntimeError())
    assert not is_database_outage(None)
