"""Requesting, reading, approving, declining and withdrawing approvals."""

from typing import Any

import pytest

from connections.models import Approval, AuditEvent, Connection, User
from tests import factories, full_dataset
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, problem, values, wrong_fields
from tests.services.governance.test_policy import rule

SEND: dict[str, Any] = {"permissions": {"Mail.Send": "approval"}}


@pytest.fixture
def pending(bob: User) -> Connection:
    """Bob's new connection with a permission that needs approval."""
    rule(**SEND)
    return factories.make_connection(
        owner=bob, status="pending", capabilities=["mail.read", "mail.send"], connected_at=None
    )


def test_an_approval_is_requested_read_and_given(alice: User, bob: User, pending: Connection) -> None:
    requester, admin = Program(bob), Program(alice)
    created = requester.post(f"connections/{pending.pk}/approvals", {"reason": "To answer customers."})
    assert created.status_code == 201
    approval = created.json()
    assert (approval["state"], approval["reason"]) == ("waiting", "To answer customers.")
    assert (approval["requester_id"], approval["permissions"]) == (bob.pk, ["Mail.Read", "Mail.Send"])
    assert "Mail.Send needs an IT admin's approval" in approval["rules"][0]
    path = created["Location"].removeprefix("/api/v1/")
    assert requester.get(path).json() == admin.get(path).json() == approval
    given = admin.post(f"{path}/approve", {"reason": "Fine."}).json()
    assert (given["state"], given["decided_by"], given["answer"]) == ("approved", "Alice Admin", "Fine.")
    assert requester.get(path).json() == given
    assert admin.post(f"{path}/approve", {}).json() == given
    assert AuditEvent.objects.filter(action="approval.approved").count() == 1


def test_a_new_request_replaces_the_waiting_one_and_a_repeated_one_does_not(bob: User, pending: Connection) -> None:
    program, path = Program(bob), f"connections/{pending.pk}/approvals"
    first = program.post(path, {"reason": "One."}, idempotency_key="once")
    assert program.post(path, {"reason": "One."}, idempotency_key="once").json() == first.json()
    assert Approval.objects.count() == 1
    program.post(path, {"reason": "Two."})
    states = [(item["reason"], item["state"]) for item in program.get("approvals").json()["items"]]
    assert states == [("Two.", "waiting"), ("One.", "withdrawn")]


def test_a_request_is_declined_with_a_reason(alice: User, bob: User, pending: Connection) -> None:
    approval, program = full_dataset.make_approval(pending), Program(alice)
    path = f"approvals/{approval.pk}/decline"
    assert wrong_fields(program.post(path, {})) == {"reason"}
    assert wrong_fields(program.post(path, {"reason": " "})) == {"reason"}
    assert wrong_fields(program.post(path, {"reason": "x" * 2001})) == {"reason"}
    answer = program.post(path, {"reason": "Reading is enough."}).json()
    assert (answer["state"], answer["answer"]) == ("declined", "Reading is enough.")
    assert "Reading is enough." in Connection.objects.get().status_cause
    assert program.post(path, {"reason": "Once more."}).json() == answer
    assert problem(program.post(f"approvals/{approval.pk}/approve", {})) == (409, "changed_meanwhile")
    assert problem(Program(bob).post(f"approvals/{approval.pk}/withdraw")) == (409, "changed_meanwhile")


def test_only_the_requester_withdraws_a_request(alice: User, bob: User, dave: User, pending: Connection) -> None:
    approval = full_dataset.make_approval(pending)
    path, program = f"approvals/{approval.pk}/withdraw", Program(bob)
    assert problem(Program(alice).post(path)) == NOT_ALLOWED
    assert problem(Program(dave).post(path)) == NOT_FOUND
    response = program.post(path).json()
    assert (response["state"], program.post(path).json()) == ("withdrawn", response)
    assert AuditEvent.objects.filter(action="approval.withdrawn").count() == 1


def test_neither_the_requester_nor_a_service_account_approves(alice: User, bob: User) -> None:
    own = full_dataset.make_approval(factories.make_connection(owner=alice))
    assert problem(Program(alice).post(f"approvals/{own.pk}/approve", {})) == NOT_ALLOWED
    robot = factories.make_service_account()
    robot.groups.set(alice.groups.all())
    others = full_dataset.make_approval(factories.make_connection(owner=bob))
    for answer in ("approve", "decline"):
        assert Program(robot, name=answer).post(f"approvals/{others.pk}/{answer}", {"reason": "x"}).status_code == 403
    assert set(Approval.objects.values_list("state", flat=True)) == {"waiting"}


def test_a_request_that_needs_no_approval_is_refused(bob: User, dave: User, connection: Connection) -> None:
    path = f"connections/{connection.pk}/approvals"
    refused = Program(bob).post(path, {"reason": "Please."})
    assert (problem(refused), "need approval" in refused.json()["detail"]) == ((422, "invalid_input"), True)
    assert problem(Program(dave).post(path, {})) == NOT_FOUND
    assert not Approval.objects.exists()


def test_a_request_that_the_policy_now_forbids_is_not_approved(alice: User, pending: Connection) -> None:
    approval = full_dataset.make_approval(pending)
    rule(permissions={"Mail.Send": "forbidden"})
    assert problem(Program(alice).post(f"approvals/{approval.pk}/approve", {})) == (403, "policy_forbids")
    assert factories.reloaded(approval).is_waiting


def test_people_see_only_their_approvals(alice: User, bob: User, carol: User, dave: User) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=alice, name="Orders")
    own = full_dataset.make_approval(first)
    theirs = full_dataset.make_approval(second)

    def seen(program: Program, **query: Any) -> list[int]:
        return values(program.get("approvals", **query), "id")

    for person, expected in (
        (alice, [theirs.pk, own.pk]),
        (carol, [theirs.pk, own.pk]),
        (bob, [own.pk]),
        (dave, []),
    ):
        assert seen(Program(person)) == expected
    assert Program(bob).get(f"approvals/{theirs.pk}").status_code == 404
    narrowed = Program(alice, only=[first])
    assert seen(narrowed) == [own.pk]
    assert narrowed.get(f"approvals/{theirs.pk}").status_code == 404
    assert problem(narrowed.post(f"approvals/{own.pk}/approve", {})) == NOT_ALLOWED
    assert problem(Program(alice, scopes=["token:read"]).get("approvals")) == NOT_ALLOWED


def test_approvals_are_filtered_and_come_in_pages(alice: User, bob: User, max_queries: Any) -> None:
    first, second = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Orders")
    declined, two = full_dataset.make_approval(first), full_dataset.make_approval(second)
    Program(alice).post(f"approvals/{declined.pk}/decline", {"reason": "No."})
    program = Program(alice)

    def seen(**query: Any) -> list[int]:
        return values(program.get("approvals", **query), "id")

    assert (seen(state="waiting"), seen(state="declined")) == ([two.pk], [declined.pk])
    assert (seen(connection_id=first.pk), seen(connection_id=2**53)) == ([declined.pk], [])
    page = program.get("approvals", limit=1).json()
    assert [item["id"] for item in page["items"]] == [two.pk]
    assert (seen(limit=1, after=page["next"])) == [declined.pk]
    assert wrong_fields(program.get("approvals", state="lost")) == {"state"}
    assert wrong_fields(program.get("approvals", connection_id="x")) == {"connection_id"}
    assert problem(program.get("approvals", stat="waiting")) == (400, "unknown_parameter")
    with max_queries(8):
        program.get("approvals")
