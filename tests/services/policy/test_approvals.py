"""Approvals are requested before anything happens at Microsoft, and cover exactly what another IT admin approved."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from connections.access import permissions
from connections.errors import ApprovalNeeded, Conflict, InvalidInput, NotAllowed, PolicyForbids
from connections.models import Approval, AuditEvent, Connection, User
from connections.services.api_keys import api_keys
from connections.services.connections import app_only, connections, sign_in
from connections.services.consent import requests
from connections.services.people import ownership_transfer, service_accounts
from connections.services.policy import approvals, four_eyes
from connections.services.sharing import shares
from portal.sandbox.client import Control
from tests import factories
from tests.api.api_client import at_once
from tests.services.governance.test_policy import finish, robots, rule, start

NOW = timezone.now()
Status, State = Connection.Status, Approval.State
SEND: dict[str, Any] = {"permissions": {"Mail.Send": "approval"}}


@pytest.fixture
def anna(db: None) -> User:
    """A second IT admin."""
    person = factories.make_person("anna")
    person.groups.set(factories.make_person("alice").groups.all())
    return person


@pytest.fixture
def alice(anna: User) -> User:
    return User.objects.get(username="alice")


def latest_approval() -> Approval:
    return Approval.objects.select_related("connection").latest("pk")


def request_sending(bob: User, **more: Any) -> Connection:
    rule(**SEND)
    return start(bob, chosen=["mail.read", "mail.send"], reason="To answer customers.", **more)


def change(connection: Connection, actor: User, *chosen: str, **more: Any) -> bool:
    values: dict[str, Any] = {"name": connection.name, "extra_scopes": (), "now": NOW} | more
    return connections.change(connection, chosen=list(chosen), actor=actor, **values)


def make_robot(responsible: User, **overrides: Any) -> User:
    """Create a service account with the IT admin role."""
    values: dict[str, Any] = {"purpose": "Reports", "admin": True, "auditor": False} | overrides
    return service_accounts.create(name="Robot", responsible=responsible, actor=responsible, now=NOW, **values)


def connect_app_only(alice: User, **more: Any) -> Connection:
    """Create an app-only connection of alice's that needs the approval of a second IT admin."""
    rule(app_only_second_admin=True)
    return app_only.connect(robots(), name="Nightly", chosen=["mail.read"], actor=alice, now=NOW, **more)


def cannot_approve(*people: User) -> None:
    for person in people:
        with pytest.raises(NotAllowed, match="approve your own request"):
            approvals.approve(latest_approval(), actor=person, now=NOW)
        assert latest_approval().is_waiting


def test_a_connection_that_needs_approval_waits_and_nobody_can_sign_in(bob: User) -> None:
    connection = request_sending(bob)
    request = latest_approval()
    assert (request.connection, request.requested_by, request.state) == (connection, bob, State.WAITING)
    assert request.capabilities == ["mail.read", "mail.send"]
    assert request.permissions == ["Mail.Read", "Mail.Send"]
    assert request.reason == "To answer customers."
    stored = Connection.objects.get()
    assert (stored.status, stored.status_code, stored.status_who) == (Status.PENDING, "approval_needed", "it_admin")
    assert "Mail.Send needs an IT admin's approval" in stored.status_cause
    with pytest.raises(ApprovalNeeded, match="Mail"):
        sign_in.begin(connection, actor=bob, now=NOW)
    with pytest.raises(ApprovalNeeded):
        finish(connection, "Mail.Read", "Mail.Send")
    assert Connection.objects.get().refresh_token is None
    assert [event.action for event in AuditEvent.objects.order_by("pk")] == ["connection.created", "approval.requested"]


def test_the_requester_signs_in_after_approval_unless_forbidden_since(alice: User, bob: User) -> None:
    connection = request_sending(bob)
    approvals.approve(latest_approval(), reason="Fine.", actor=alice, now=NOW)
    stored = Connection.objects.get()
    assert (stored.status, stored.status_code, stored.status_who) == (Status.PENDING, "", "owner")
    assert "Alice Admin approved it" in stored.status_cause
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        sign_in.begin(connection, actor=bob, now=NOW)
    rule(**SEND)
    sign_in.begin(connection, actor=bob, now=NOW)
    finish(connection, "Mail.Read", "Mail.Send")
    assert Connection.objects.get().status == Status.ACTIVE
    request = latest_approval()
    assert (request.state, request.decided_by, request.decision_reason) == (State.APPROVED, alice, "Fine.")


def test_an_approval_covers_exactly_what_was_requested(alice: User, bob: User) -> None:
    rule(permissions={"Mail.Send": "approval", "Files.*": "approval"})
    connection = start(bob, chosen=["mail.send"])
    approvals.approve(latest_approval(), actor=alice, now=NOW)
    finish(connection, "Mail.Send")
    # Additional permissions that are allowed anyway need no approval.
    change(connection, bob, "mail.send", "mail.read")
    sign_in.begin(connection, actor=bob, now=NOW)
    assert Approval.objects.count() == 1
    assert change(connection, bob, "mail.send", "files.read", reason="Archive.")
    request = latest_approval()
    assert (request.state, request.permissions) == (State.WAITING, ["Files.Read", "Mail.Send"])
    assert request.reason == "Archive."
    with pytest.raises(ApprovalNeeded, match=r"Files\.Read"):
        sign_in.begin(connection, actor=bob, now=NOW)
    assert Connection.objects.get().status == Status.ACTIVE, "a connection that worked stays active"
    approvals.approve(latest_approval(), actor=alice, now=NOW)
    sign_in.begin(connection, actor=bob, now=NOW)


def test_changing_permissions_replaces_the_request_or_closes_it_and_renaming_keeps_it(bob: User) -> None:
    connection = request_sending(bob)
    change(connection, bob, "mail.read", "mail.send", name="Other")
    assert [approval.state for approval in Approval.objects.all()] == [State.WAITING]
    change(connection, bob, "mail.send")
    assert [approval.state for approval in Approval.objects.order_by("pk")] == [State.WITHDRAWN, State.WAITING]
    change(connection, bob, "mail.read")
    assert {approval.state for approval in Approval.objects.all()} == {State.WITHDRAWN}
    assert Connection.objects.get().status_code == ""
    sign_in.begin(connection, actor=bob, now=NOW)


def test_members_auditors_and_the_requester_cannot_decide(alice: User, anna: User, bob: User, carol: User) -> None:
    request_sending(bob)
    for person in (bob, carol):
        with pytest.raises(NotAllowed, match="Only IT admins"):
            approvals.approve(latest_approval(), actor=person, now=NOW)
        with pytest.raises(NotAllowed):
            approvals.decline(latest_approval(), reason="No.", actor=person, now=NOW)
    start(alice, chosen=["mail.send"], name="Mine")
    with pytest.raises(NotAllowed, match="approve your own request") as caught:
        approvals.approve(latest_approval(), actor=alice, now=NOW)
    assert "createsuperuser" in caught.value.action
    approvals.approve(latest_approval(), actor=anna, now=NOW)
    assert latest_approval().state == State.APPROVED


def test_the_break_glass_account_decides_if_there_is_only_one_it_admin(alice: User, anna: User) -> None:
    anna.groups.clear()
    rule(**SEND)
    start(alice, chosen=["mail.send"])
    operator = User.objects.create_superuser("operator", password=factories.PASSWORD)
    approvals.approve(latest_approval(), actor=operator, now=NOW)
    assert latest_approval().decided_by == operator


def test_a_service_account_with_the_it_admin_role_cannot_approve(alice: User, bob: User) -> None:
    request_sending(bob)
    robot = make_robot(alice)
    with pytest.raises(NotAllowed, match="Only IT admins"):
        approvals.approve(latest_approval(), actor=robot, now=NOW)


def test_the_responsible_person_cannot_approve_even_after_being_replaced(alice: User, anna: User) -> None:
    robot = make_robot(alice)
    request_sending(robot)
    cannot_approve(alice)
    facts: dict[str, Any] = {"purpose": "Reports", "admin": True, "auditor": False}
    service_accounts.change(robot, responsible=factories.make_person("amy"), **facts, actor=alice, now=NOW)
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)
    assert latest_approval().state == State.APPROVED


def test_the_creator_of_a_service_accounts_key_cannot_approve_its_requests(alice: User, anna: User) -> None:
    robot = make_robot(anna)
    api_keys.issue(
        robot, name="Mine", scopes=["connections:write"], expires_at=NOW + timedelta(days=9), actor=alice, now=NOW
    )
    request_sending(robot)
    cannot_approve(alice, anna)


def test_an_it_admin_who_rotated_a_service_accounts_key_cannot_approve_its_requests(alice: User, anna: User) -> None:
    robot = make_robot(anna)
    end = NOW + timedelta(days=9)
    key, _ = api_keys.issue(robot, name="Mine", scopes=["connections:write"], expires_at=end, actor=anna, now=NOW)
    request_sending(robot)
    assert permissions.can_decide(alice, latest_approval())
    rotate = partial(api_keys.rotate, key, overlap=timedelta(0), expires_at=end, actor=alice, now=NOW)
    with pytest.raises(four_eyes.SecondPersonNeeded) as needed:
        rotate()
    four_eyes.approve(four_eyes.ask(needed.value.change, actor=alice, now=NOW), actor=anna, now=NOW)
    rotate()
    assert not permissions.can_decide(alice, latest_approval())


def test_nobody_approves_requests_of_their_service_account_for_shared_ones(alice: User, anna: User, bob: User) -> None:
    robot = factories.make_service_account(responsible=alice)
    connection = start(bob, chosen=["mail.read"])
    shares.share(connection, person=robot, level="manage", until=None, actor=bob, now=NOW)
    rule(**SEND)
    change(connection, robot, "mail.read", "mail.send")
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)


def test_an_earlier_requester_cannot_approve_the_owners_new_request(alice: User, anna: User, bob: User) -> None:
    connection = start(bob, chosen=["mail.read"])
    shares.share(connection, person=alice, level="manage", until=None, actor=bob, now=NOW)
    rule(**SEND)
    change(connection, alice, "mail.read", "mail.send")
    approvals.request_missing(connection, reason="Please.", actor=bob, now=NOW)
    assert latest_approval().requested_by == bob
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)


def test_the_requester_cannot_approve_a_request_of_the_new_owner(alice: User, anna: User, bob: User) -> None:
    ownership_transfer.transfer(connect_app_only(alice), bob, keep_grant=True, actor=alice, now=NOW)
    approvals.request_missing(Connection.objects.get(), reason="Please.", actor=bob, now=NOW)
    assert latest_approval().requested_by == bob
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)


def request_by_bob(owner: User, bob: User) -> Connection:
    """Create a connection of ``owner`` that bob manages and has requested more permissions for."""
    connection = start(owner, chosen=["mail.read"])
    shares.share(connection, person=bob, level="manage", until=None, actor=owner, now=NOW)
    rule(**SEND)
    change(connection, bob, "mail.read", "mail.send")
    return connection


def test_the_owner_cannot_approve_requests_of_others_even_after_a_transfer(alice: User, anna: User, bob: User) -> None:
    connection = request_by_bob(alice, bob)
    cannot_approve(alice)
    ownership_transfer.transfer(connection, bob, keep_grant=True, actor=alice, now=NOW + timedelta(minutes=1))
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW + timedelta(minutes=2))


def test_nobody_approves_requests_for_their_service_accounts_connection(alice: User, anna: User, bob: User) -> None:
    request_by_bob(make_robot(alice, admin=False), bob)
    cannot_approve(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)


def test_consent_cannot_be_requested_before_the_approval(alice: User, bob: User) -> None:
    connection = request_sending(bob)
    with pytest.raises(ApprovalNeeded):
        requests.request_consent(connection, reason="To answer customers.", actor=bob, now=NOW)
    approvals.approve(latest_approval(), actor=alice, now=NOW)
    assert requests.request_consent(connection, reason="To answer customers.", actor=bob, now=NOW).permissions


def test_declining_needs_a_reason_that_the_requester_sees(alice: User, bob: User) -> None:
    connection = request_sending(bob)
    with pytest.raises(InvalidInput) as caught:
        approvals.decline(latest_approval(), reason="  ", actor=alice, now=NOW)
    assert caught.value.field == "reason"
    approvals.decline(latest_approval(), reason="Use the team's mailbox.", actor=alice, now=NOW)
    assert "Use the team's mailbox." in Connection.objects.get().status_cause
    with pytest.raises(ApprovalNeeded, match="Alice Admin declined it: Use the team's mailbox"):
        sign_in.begin(connection, actor=bob, now=NOW)
    again = approvals.request_missing(connection, reason="It has none.", actor=bob, now=NOW)
    assert (again.state, again.reason) == (State.WAITING, "It has none.")


def test_declining_restores_the_permissions_of_a_connection_that_works(alice: User, bob: User) -> None:
    rule(**SEND)
    change(factories.make_connection(owner=bob), bob, "mail.read", "mail.send")
    approvals.decline(latest_approval(), reason="No.", actor=alice, now=NOW)
    stored = Connection.objects.get()
    assert (stored.capabilities, stored.status) == (["mail.read"], Status.ACTIVE)
    sign_in.begin(stored, actor=bob, now=NOW)


def test_only_the_requester_or_new_owner_withdraws_and_twice_is_harmless(alice: User, bob: User, dave: User) -> None:
    ownership_transfer.transfer(request_sending(bob), dave, keep_grant=True, actor=bob, now=NOW)
    for person in (bob, alice):
        with pytest.raises(NotAllowed):
            approvals.withdraw(latest_approval(), actor=person, now=NOW)
    for _ in range(2):
        approvals.withdraw(latest_approval(), actor=dave, now=NOW)
    assert AuditEvent.objects.filter(action="approval.withdrawn").count() == 1
    with pytest.raises(ApprovalNeeded):
        sign_in.begin(Connection.objects.get(), actor=dave, now=NOW)


@pytest.mark.parametrize("first", ["approve", "decline", "withdraw"])
@pytest.mark.parametrize("second", ["approve", "decline", "withdraw"])
def test_the_first_of_two_decisions_is_final(first: str, second: str, alice: User, anna: User, bob: User) -> None:
    request_sending(bob)
    answers: dict[str, Callable[[User], None]] = {
        "approve": lambda person: approvals.approve(Approval.objects.get(), actor=person, now=NOW),
        "decline": lambda person: approvals.decline(Approval.objects.get(), reason="No.", actor=person, now=NOW),
        "withdraw": lambda _: approvals.withdraw(Approval.objects.get(), actor=bob, now=NOW),
    }
    answers[first](alice)
    state = latest_approval().state
    if first == second:
        answers[second](anna)
    else:
        with pytest.raises(Conflict):
            answers[second](anna)
    assert latest_approval().state == state
    assert AuditEvent.objects.filter(action__startswith="approval.").count() == 2


def test_a_request_that_the_policy_forbids_by_now_cannot_be_approved(alice: User, bob: User) -> None:
    connection = request_sending(bob)
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        approvals.approve(latest_approval(), actor=alice, now=NOW)
    assert latest_approval().state == State.WAITING
    rule()
    sign_in.begin(connection, actor=bob, now=NOW)
    assert latest_approval().state == State.WITHDRAWN
    assert latest_approval().decision_reason == "An approval is no longer needed."
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        sign_in.begin(connection, actor=bob, now=NOW)


def test_removing_the_connection_closes_the_request_and_keeps_its_record(alice: User, bob: User) -> None:
    connections.remove(request_sending(bob), actor=bob, now=NOW)
    request = Approval.objects.get()
    assert (request.connection, request.connection_name, request.state) == (None, "Inbox", State.WITHDRAWN)
    with pytest.raises(Conflict):
        approvals.approve(request, actor=alice, now=NOW)


def test_requesting_an_approval_without_need_or_permission_is_refused(
    bob: User, dave: User, connection: Connection
) -> None:
    with pytest.raises(InvalidInput):
        approvals.request_missing(connection, reason="", actor=bob, now=NOW)
    rule(permissions={"Mail.Read": "approval"})
    with pytest.raises(NotAllowed):
        approvals.request_missing(connection, reason="", actor=dave, now=NOW)
    rule(permissions={"Mail.Read": "forbidden"})
    with pytest.raises(PolicyForbids):
        approvals.request_missing(connection, reason="", actor=bob, now=NOW)
    assert not Approval.objects.exists()


def test_an_app_only_connection_waits_for_a_second_it_admin(alice: User, anna: User, sandbox: Control) -> None:
    connection = connect_app_only(alice, reason="Reports.")
    assert connection.status == Status.PENDING
    assert sandbox.calls()["by_endpoint"] == {}, "Microsoft is not asked before"
    with pytest.raises(ApprovalNeeded):
        app_only.finish(connection, actor=alice, now=NOW)
    with pytest.raises(NotAllowed):
        approvals.approve(latest_approval(), actor=alice, now=NOW)
    approvals.approve(latest_approval(), actor=anna, now=NOW)
    for _ in range(2):
        connection = app_only.finish(Connection.objects.get(), actor=anna, now=NOW)
    assert connection.status == Status.ACTIVE
    assert Connection.objects.get().access_token
    assert AuditEvent.objects.filter(action="connection.connected").count() == 1


def test_a_permission_added_to_an_app_only_connection_needs_approval(alice: User, anna: User, sandbox: Control) -> None:
    connection = connect_app_only(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)
    connection = app_only.finish(connection, actor=alice, now=NOW)
    change(connection, alice, "mail.read", "mail.send")
    assert (latest_approval().state, "Mail.Send" in latest_approval().permissions) == (State.WAITING, True)
    approvals.decline(latest_approval(), reason="No sending.", actor=anna, now=NOW)
    stored = Connection.objects.get()
    assert (stored.capabilities, stored.scopes) == (["mail.read"], "Mail.Read")
    # Asking for less than was approved needs no approval.
    change(stored, alice, extra_scopes=("Mail.Read",))
    assert Approval.objects.count() == 2


def test_the_approval_stays_when_microsoft_is_unavailable(alice: User, anna: User, sandbox: Control) -> None:
    connection = connect_app_only(alice)
    approvals.approve(latest_approval(), actor=anna, now=NOW)
    sandbox.weather("unavailable", where="token")
    with pytest.raises(Exception, match="Microsoft"):
        app_only.finish(connection, actor=alice, now=NOW)
    assert Connection.objects.get().status == Status.PENDING
    assert latest_approval().state == State.APPROVED


@pytest.mark.only_on("postgres")
@pytest.mark.django_db(transaction=True)
def test_only_one_of_two_simultaneous_decisions_is_made(alice: User, anna: User, bob: User) -> None:
    request_sending(bob)
    pk = Approval.objects.get().pk

    def decide(decision: Callable[..., None], **values: Any) -> str:
        try:
            decision(Approval.objects.get(pk=pk), now=NOW, **values)
        except Conflict:
            return "too late"
        return "done"

    decisions = (
        partial(decide, approvals.approve, actor=alice),
        partial(decide, approvals.decline, actor=anna, reason="No"),
    )
    assert sorted(at_once(*decisions)) == ["done", "too late"]
    assert AuditEvent.objects.filter(action__in=("approval.approved", "approval.declined")).count() == 1
