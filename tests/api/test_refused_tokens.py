"""A token that Microsoft rejects before it expires is replaced, or the caller is told why it cannot be."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from connections.models import Connection, User
from connections.services.tokens import single_flight
from portal.sandbox.client import Control
from tests import factories
from tests.asgi_client import PortalClient

pytestmark = pytest.mark.django_db


@pytest.fixture
def connection(sandbox: Control, bob: User) -> Connection:
    grant = sandbox.issue_grant(factories.CLIENT_ID, factories.ADA, ["Mail.Read", "offline_access"])
    return factories.make_connection(owner=bob, refresh_token=grant["refresh_tokens"][0])


@pytest.fixture
def robot(bob: User) -> Client:
    return PortalClient(headers={"Authorization": f"Bearer {factories.make_key(bob)[1]}"})


def ask(robot: Client, connection: Connection, **query: Any) -> Any:
    return robot.get(f"/api/v1/connections/{connection.pk}/token", query)


def asked_microsoft(sandbox: Control) -> int:
    return int(sandbox.calls(limit=0)["by_endpoint"].get("token", 0))


def test_it_is_replaced_once_however_many_name_it(sandbox: Control, robot: Client, connection: Connection) -> None:
    before = ask(robot, connection).json()
    sandbox.clear_calls()
    after = [ask(robot, connection, refused=before["id"]).json() for _ in range(3)]
    assert asked_microsoft(sandbox) == 1
    assert {body["access_token"] for body in after} == {Connection.objects.get().access_token}
    assert after[0]["access_token"] != before["access_token"]
    assert ask(robot, connection).json() == after[0]


def test_a_new_one_that_ends_earlier_is_taken_all_the_same(robot: Client, connection: Connection) -> None:
    Connection.objects.update(expires_at=timezone.now() + timedelta(days=1))
    before = ask(robot, connection).json()
    after = ask(robot, connection, refused=before["id"]).json()
    assert after["access_token"] != before["access_token"]
    assert after["expires_at"] < before["expires_at"]


def test_its_name_tells_nothing_of_it(robot: Client, connection: Connection) -> None:
    body = ask(robot, connection).json()
    assert body["id"] == single_flight.token_id(body["access_token"])
    assert len(body["id"]) == 32
    assert body["id"] not in body["access_token"]


def test_it_is_not_handed_out_while_microsoft_is_away(sandbox: Control, robot: Client, connection: Connection) -> None:
    before = ask(robot, connection).json()
    sandbox.weather("unavailable", where="token")
    refused = ask(robot, connection, refused=before["id"])
    assert (refused.status_code, refused.json()["code"]) == (503, "microsoft_unavailable")
    assert int(refused["Retry-After"]) > 0
    assert ask(robot, connection).json() == before  # other callers keep getting it


def test_a_revoked_grant_is_noticed_and_told(sandbox: Control, robot: Client, connection: Connection) -> None:
    before = ask(robot, connection).json()
    sandbox.revoke_sessions(factories.ADA)
    for _ in range(2):  # some of Microsoft's rejections are confirmed by a second request
        answer = ask(robot, connection, refused=before["id"])
    assert (answer.status_code, answer.json()["code"]) == (409, "reconnect_needed")
    assert Connection.objects.get().status == "reconnect_needed"


def test_a_caller_who_refuses_everything_is_stopped(sandbox: Control, robot: Client, connection: Connection) -> None:
    sandbox.clear_calls()
    known = ask(robot, connection).json()["id"]
    got = []
    for _ in range(2 * single_flight.MOST_EARLY + 5):
        answer = ask(robot, connection, refused=known)
        got.append(answer.status_code)
        known = answer.json().get("id", known)
    assert set(got) == {200, 503}
    # A new minute may have begun in the meantime.
    assert single_flight.MOST_EARLY <= asked_microsoft(sandbox) == got.count(200) <= 2 * single_flight.MOST_EARLY


@pytest.mark.parametrize("refused", ["x", "A" * 32, "0" * 33, "0" * 31, "\x00" * 32])
def test_what_is_no_name_of_a_token_is_told(robot: Client, connection: Connection, refused: str) -> None:
    answer = ask(robot, connection, refused=refused)
    assert answer.status_code in (400, 422)
    assert "refused" in answer.content.decode()
