"""Approvals over the API: asked, read, approved, declined, withdrawn."""

from __future__ import annotations

from typing import Any

import pytest

from connections.models import Approval, AuditEvent, Connection, User
from tests import factories, full_dataset
from tests.api.api_client import Program, told, wrong_fields
from tests.services.governance.test_policy import rule

pytestmark = pytest.mark.django_db

SEND = {"permissions": {"Mail.Send": "approval"}}


@pytest.fixture
def wishing(bob: User) -> Connection:
    """Bob's new connection that wants to send, which needs an approval."""
    rule(**SEND)
    return factories.make_connection(
        owner=bob, status="pending", capabilities=["mail.read", "mail.send"], connected_at=None
    )


def test_an_approval_is_asked_read_and_given(alice: User, bob: User, wishing: Connection) -> None:
    requester, admin = Program(bob), Program(alice)
    made = requester.post(f"connections/{wishing.pk}/approvals", {"reason": "To answer customers."})
    assert made.status_code == 201
    told_of = made.json()
    assert (told_of["state"], told_of["reason"], told_of["requester_id"]) == ("waiting", "To answer customers.", bob.pk)
    assert told_of["permissions"] == ["Mail.Read", "Mail.Send"]
    assert "Mail.Send needs the approval" in told_of["rules"][0]
    path = made["Location"].removeprefix("/api/v1/")
    assert requester.get(path).json() == admin.get(path).json() == told_of
    given = admin.post(f"{path}/approve", {"reason": "Fine."}).json()
    assert (given["state"], given["decided_by"], given["answer"]) == ("approved", "Alice Admin", "Fine.")
    assert requester.get(path).json() == given
    assert admin.post(f"{path}/approve", {}).json() == given
    assert AuditEvent.objects.filter(action="approval.approved").count() == 1


def test_asking_again_replaces_what_waits_and_the_same_request_asks_once(bob: User, wishing: Connection) -> None:
    program, path = Program(bob), f"connections/{wishing.pk}/approvals"
    first = program.post(path, {"reason": "One."}, idempotency_key="once")
    assert program.post(path, {"reason": "One."}, idempotency_key="once").json() == first.json()
    assert Approval.objects.count() == 1
    program.post(path, {"reason": "Two."})
    states = [(one["reason"], one["state"]) for one in program.get("approvals").json()["items"]]
    assert states == [("Two.", "waiting"), ("One.", "withdrawn")]


def test_a_request_is_declined_with_a_reason(alice: User, bob: User, wishing: Connection) -> None:
    asked, program = full_dataset.make_approval(wishing), Program(alice)
    path = f"approvals/{asked.pk}/decline"
    assert wrong_fields(program.post(path, {})) == {"reason"}
    assert wrong_fields(program.post(path, {"reason": " "})) == {"reason"}
    assert wrong_fields(program.post(path, {"reason": "x" * 2001})) == {"reason"}
    answer = program.post(path, {"reason": "Reading is enough."}).json()
    assert (answer["state"], answer["answer"]) == ("declined", "Reading is enough.")
    assert "Reading is enough." in Connection.objects.get().status_cause
    assert program.post(path, {"reason": "Once more."}).json() == answer
    assert told(program.post(f"approvals/{asked.pk}/approve", {})) == (409, "changed_meanwhile")
    assert told(Program(bob).post(f"approvals/{asked.pk}/withdraw")) == (409, "changed_meanwhile")


def test_who_asked_takes_it_back(alice: User, bob: User, dave: User, wishing: Connection) -> None:
    asked = full_dataset.make_approval(wishing)
    path, program = f"approvals/{asked.pk}/withdraw", Program(bob)
    assert told(Program(alice).post(path)) == (403, "not_allowed")
    assert told(Program(dave).post(path)) == (404, "not_found")
    taken = program.post(path).json()
    assert (taken["state"], program.post(path).json()) == ("withdrawn", taken)
    assert AuditEvent.objects.filter(action="approval.withdrawn").count() == 1


def test_nobody_approves_what_they_asked_and_no_service_account_approves(alice: User, bob: User) -> None:
    own = full_dataset.make_approval(factories.make_connection(owner=alice))
    assert told(Program(alice).post(f"approvals/{own.pk}/approve", {})) == (403, "not_allowed")
    robot = factories.make_service_account()
    robot.groups.set(alice.groups.all())
    others = full_dataset.make_approval(factories.make_connection(owner=bob))
    for answer in ("approve", "decline"):
        assert Program(robot, name=answer).post(f"approvals/{others.pk}/{answer}", {"reason": "x"}).status_code == 403
    assert set(Approval.objects.values_list("state", flat=True)) == {"waiting"}


def test_what_needs_no_approval_is_not_asked(bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    path = f"connections/{connection.pk}/approvals"
    refused = Program(bob).post(path, {"reason": "Please."})
    assert (told(refused), "no approval" in refused.json()["detail"]) == ((422, "invalid_input"), True)
    assert told(Program(dave).post(path, {})) == (404, "not_found")
    assert not Approval.objects.exists()


def test_what_the_policy_forbids_meanwhile_is_not_approved(alice: User, wishing: Connection) -> None:
    asked = full_dataset.make_approval(wishing)
    rule(permissions={"Mail.Send": "forbidden"})
    assert told(Program(alice).post(f"approvals/{asked.pk}/approve", {})) == (403, "policy_forbids")
    asked.refresh_from_db()
    assert asked.is_waiting


def test_one_sees_the_approvals_that_one_may_see(alice: User, bob: User, carol: User, dave: User) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=alice, name="Orders")
    mine = full_dataset.make_approval(first)
    theirs = full_dataset.make_approval(second)

    def seen(program: Program, **query: Any) -> list[int]:
        return [one["id"] for one in program.get("approvals", **query).json()["items"]]

    for person, expected in (
        (alice, [theirs.pk, mine.pk]),
        (carol, [theirs.pk, mine.pk]),
        (bob, [mine.pk]),
        (dave, []),
    ):
        assert seen(Program(person)) == expected
    assert Program(bob, name="2").get(f"approvals/{theirs.pk}").status_code == 404
    narrowed = Program(alice, only=[first], name="narrowed")
    assert seen(narrowed) == [mine.pk]
    assert narrowed.get(f"approvals/{theirs.pk}").status_code == 404
    assert told(narrowed.post(f"approvals/{mine.pk}/approve", {})) == (403, "not_allowed")
    assert told(Program(alice, scopes=["token:read"], name="token").get("approvals")) == (403, "not_allowed")


def test_approvals_are_filtered_and_come_in_pages(alice: User, bob: User, django_assert_max_num_queries: Any) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Orders")
    one, two = full_dataset.make_approval(first), full_dataset.make_approval(second)
    Program(alice).post(f"approvals/{one.pk}/decline", {"reason": "No."})
    program = Program(alice, name="2")

    def seen(**query: Any) -> list[int]:
        return [found["id"] for found in program.get("approvals", **query).json()["items"]]

    assert (seen(state="waiting"), seen(state="declined")) == ([two.pk], [one.pk])
    assert (seen(connection_id=first.pk), seen(connection_id=2**53)) == ([one.pk], [])
    page = program.get("approvals", limit=1).json()
    assert [found["id"] for found in page["items"]] == [two.pk]
    assert (seen(limit=1, after=page["next"])) == [one.pk]
    assert wrong_fields(program.get("approvals", state="lost")) == {"state"}
    assert wrong_fields(program.get("approvals", connection_id="x")) == {"connection_id"}
    assert told(program.get("approvals", stat="waiting")) == (400, "unknown_parameter")
    with django_assert_max_num_queries(8):
        program.get("approvals")
