"""Approvals: asked before anything happens at Microsoft, answered by another IT admin, and good for exactly what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.access import permissions
from connections.errors import ApprovalNeeded, Conflict, InvalidInput, NotAllowed, PolicyForbids
from connections.models import AppRegistration, Approval, AuditEvent, Connection, User
from connections.services.api_keys import api_keys
from connections.services.connections import app_only, connections, sign_in
from connections.services.consent import requests
from connections.services.people import ownership_transfer, service_accounts
from connections.services.policy import approvals
from connections.services.sharing import shares
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import factories
from tests.services.governance.test_policy import finish, rule, start

pytestmark = pytest.mark.django_db

NOW = timezone.now()
Status, State = Connection.Status, Approval.State
SEND = {"permissions": {"Mail.Send": "approval"}}


@pytest.fixture
def anna(db: None) -> User:
    """The other IT admin."""
    person = factories.make_person("anna")
    person.groups.set(factories.make_person("alice").groups.all())
    return person


@pytest.fixture
def alice(anna: User) -> User:
    return User.objects.get(username="alice")


def asked() -> Approval:
    return Approval.objects.select_related("connection").latest("pk")


def wish_for_sending(bob: User, **more: Any) -> Connection:
    rule(**SEND)
    return start(bob, chosen=["mail.read", "mail.send"], reason="To answer customers.", **more)


# --- Asked ----------------------------------------------------------------------------------------


def test_what_needs_approval_waits_and_nobody_can_sign_in(bob: User) -> None:
    made = wish_for_sending(bob)
    request = asked()
    assert (request.connection, request.requested_by, request.state) == (made, bob, State.WAITING)
    assert request.capabilities == ["mail.read", "mail.send"]
    assert request.permissions == ["Mail.Read", "Mail.Send"]
    assert request.reason == "To answer customers."
    stored = Connection.objects.get()
    assert (stored.status, stored.status_code, stored.status_who) == (Status.PENDING, "approval_needed", "it_admin")
    assert "Mail.Send needs the approval" in stored.status_cause
    with pytest.raises(ApprovalNeeded, match="Mail"):
        sign_in.begin(made, actor=bob, now=NOW)
    with pytest.raises(ApprovalNeeded):
        finish(made, "Mail.Read", "Mail.Send")
    assert Connection.objects.get().refresh_token is None
    assert [event.action for event in AuditEvent.objects.order_by("pk")] == ["connection.created", "approval.requested"]


def test_after_approval_the_requester_signs_in(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    approvals.approve(asked(), reason="Fine.", actor=alice, now=NOW)
    stored = Connection.objects.get()
    assert (stored.status, stored.status_code, stored.status_who) == (Status.PENDING, "", "owner")
    assert "Alice Admin approved it" in stored.status_cause
    sign_in.begin(made, actor=bob, now=NOW)
    finish(made, "Mail.Read", "Mail.Send")
    assert Connection.objects.get().status == Status.ACTIVE
    request = asked()
    assert (request.state, request.decided_by, request.decision_reason) == (State.APPROVED, alice, "Fine.")


def test_an_approval_covers_exactly_what_was_asked(alice: User, bob: User) -> None:
    rule(permissions={"Mail.Send": "approval", "Files.*": "approval"})
    made = start(bob, chosen=["mail.send"])
    approvals.approve(asked(), actor=alice, now=NOW)
    finish(made, "Mail.Send")
    # Less, or more of what is allowed anyway, needs nothing.
    connections.change(made, name="Inbox", chosen=["mail.send", "mail.read"], extra_scopes=(), actor=bob, now=NOW)
    sign_in.begin(made, actor=bob, now=NOW)
    assert Approval.objects.count() == 1
    # More of what needs approval does.
    lacks = connections.change(
        made, name="Inbox", chosen=["mail.send", "files.read"], extra_scopes=(), actor=bob, now=NOW, reason="Archive."
    )
    assert lacks
    assert (asked().state, asked().permissions, asked().reason) == (
        State.WAITING,
        ["Files.Read", "Mail.Send"],
        "Archive.",
    )
    with pytest.raises(ApprovalNeeded, match=r"Files\.Read"):
        sign_in.begin(made, actor=bob, now=NOW)
    assert Connection.objects.get().status == Status.ACTIVE, "what worked goes on"
    approvals.approve(asked(), actor=alice, now=NOW)
    sign_in.begin(made, actor=bob, now=NOW)


def test_a_wish_that_is_made_again_replaces_the_request_and_a_smaller_one_ends_it(bob: User) -> None:
    made = wish_for_sending(bob)
    wishes = {"name": "Inbox", "extra_scopes": (), "actor": bob, "now": NOW}
    connections.change(made, chosen=["mail.send"], **wishes)  # type: ignore[arg-type]
    assert [approval.state for approval in Approval.objects.order_by("pk")] == [State.WITHDRAWN, State.WAITING]
    connections.change(made, chosen=["mail.read"], **wishes)  # type: ignore[arg-type]
    assert {approval.state for approval in Approval.objects.all()} == {State.WITHDRAWN}
    assert Connection.objects.get().status_code == ""
    sign_in.begin(made, actor=bob, now=NOW)


def test_only_the_name_asks_nobody_again(bob: User) -> None:
    made = wish_for_sending(bob)
    connections.change(made, name="Other", chosen=["mail.read", "mail.send"], extra_scopes=(), actor=bob, now=NOW)
    assert asked().state == State.WAITING
    assert Approval.objects.count() == 1


# --- Answered -------------------------------------------------------------------------------------


def test_members_auditors_and_the_requester_decide_nothing(alice: User, anna: User, bob: User, carol: User) -> None:
    wish_for_sending(bob)
    for person in (bob, carol):
        with pytest.raises(NotAllowed, match="Only IT admins"):
            approvals.approve(asked(), actor=person, now=NOW)
        with pytest.raises(NotAllowed):
            approvals.decline(asked(), reason="No.", actor=person, now=NOW)
    start(alice, chosen=["mail.send"], name="Mine")
    with pytest.raises(NotAllowed, match="cannot give it") as caught:
        approvals.approve(asked(), actor=alice, now=NOW)
    assert "createsuperuser" in caught.value.action
    approvals.approve(asked(), actor=anna, now=NOW)
    assert asked().state == State.APPROVED


def test_where_there_is_one_it_admin_the_break_glass_account_decides(alice: User, anna: User) -> None:
    anna.groups.clear()
    rule(**SEND)
    start(alice, chosen=["mail.send"])
    operator = User.objects.create_superuser("operator", password=factories.PASSWORD)
    approvals.approve(asked(), actor=operator, now=NOW)
    assert asked().decided_by == operator


def test_a_service_account_with_the_role_approves_nothing(alice: User, bob: User) -> None:
    wish_for_sending(bob)
    robot = service_accounts.create(
        name="Robot", purpose="Reports", responsible=alice, admin=True, auditor=False, actor=alice, now=NOW
    )
    with pytest.raises(NotAllowed, match="Only IT admins"):
        approvals.approve(asked(), actor=robot, now=NOW)


def test_who_is_responsible_for_a_service_account_does_not_approve_what_it_asks(alice: User, anna: User) -> None:
    robot = service_accounts.create(
        name="Robot", purpose="Reports", responsible=alice, admin=True, auditor=False, actor=alice, now=NOW
    )
    wish_for_sending(robot)
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)
    assert asked().state == State.APPROVED


def test_whoever_holds_a_key_of_a_service_account_does_not_approve_what_it_asks(alice: User, anna: User) -> None:
    robot = service_accounts.create(
        name="Robot", purpose="Reports", responsible=anna, admin=True, auditor=False, actor=anna, now=NOW
    )
    api_keys.issue(
        robot, name="Mine", scopes=["connections:write"], expires_at=NOW + timedelta(days=9), actor=alice, now=NOW
    )
    wish_for_sending(robot)
    for person in (alice, anna):
        with pytest.raises(NotAllowed, match="cannot give it"):
            approvals.approve(asked(), actor=person, now=NOW)


def test_whoever_had_the_key_of_a_service_account_rotated_does_not_approve_either(alice: User, anna: User) -> None:
    robot = service_accounts.create(
        name="Robot", purpose="Reports", responsible=anna, admin=True, auditor=False, actor=anna, now=NOW
    )
    end = NOW + timedelta(days=9)
    key, _ = api_keys.issue(robot, name="Mine", scopes=["connections:write"], expires_at=end, actor=anna, now=NOW)
    wish_for_sending(robot)
    assert permissions.can_decide(alice, asked())
    api_keys.rotate(key, overlap=timedelta(0), expires_at=end, actor=alice, now=NOW)
    assert not permissions.can_decide(alice, asked())


def test_what_a_service_account_asks_for_somebody_elses_connection_is_not_for_who_answers_for_it(
    alice: User, anna: User, bob: User
) -> None:
    robot = factories.make_service_account(responsible=alice)
    made = start(bob, chosen=["mail.read"])
    shares.share(made, person=robot, level="manage", until=None, actor=bob, now=NOW)
    rule(**SEND)
    wishes = {"name": "Inbox", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(made, actor=robot, now=NOW, **wishes)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)


def test_who_asked_first_does_not_approve_what_the_owner_asked_anew(alice: User, anna: User, bob: User) -> None:
    made = start(bob, chosen=["mail.read"])
    shares.share(made, person=alice, level="manage", until=None, actor=bob, now=NOW)
    rule(**SEND)
    wishes = {"name": "Inbox", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(made, actor=alice, now=NOW, **wishes)  # type: ignore[arg-type]
    approvals.request_missing(made, reason="Please.", actor=bob, now=NOW)
    assert asked().requested_by == bob
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)


def test_making_somebody_else_responsible_does_not_free_the_way(alice: User, anna: User) -> None:
    role = {"purpose": "Reports", "admin": True, "auditor": False, "actor": alice}
    robot = service_accounts.create(name="Robot", responsible=alice, now=NOW, **role)
    wish_for_sending(robot)
    service_accounts.change(robot, responsible=anna, now=NOW, **role)
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)


def test_handing_it_over_and_having_it_asked_for_again_does_not_free_the_way(
    alice: User, anna: User, bob: User
) -> None:
    rule(app_only_second_admin=True)
    made = app_only.connect(robots(), name="Nightly", chosen=["mail.read"], actor=alice, now=NOW)
    ownership_transfer.transfer(made, bob, keep_grant=True, actor=alice, now=NOW)
    approvals.request_missing(Connection.objects.get(), reason="Please.", actor=bob, now=NOW)
    assert asked().requested_by == bob
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)


def test_the_owner_does_not_approve_what_somebody_asks_for_their_connection(alice: User, anna: User, bob: User) -> None:
    made = start(alice, chosen=["mail.read"])
    shares.share(made, person=bob, level="manage", until=None, actor=alice, now=NOW)
    rule(**SEND)
    wishes = {"name": "Inbox", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(made, actor=bob, now=NOW, **wishes)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)


def test_giving_it_away_after_it_was_asked_does_not_free_the_way(alice: User, anna: User, bob: User) -> None:
    made = start(alice, chosen=["mail.read"])
    shares.share(made, person=bob, level="manage", until=None, actor=alice, now=NOW)
    rule(**SEND)
    wishes = {"name": "Inbox", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(made, actor=bob, now=NOW, **wishes)  # type: ignore[arg-type]
    ownership_transfer.transfer(made, bob, keep_grant=True, actor=alice, now=NOW + timedelta(minutes=1))
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW + timedelta(minutes=2))
    approvals.approve(asked(), actor=anna, now=NOW + timedelta(minutes=2))


def test_who_answers_for_the_service_account_that_owns_it_does_not_approve(alice: User, anna: User, bob: User) -> None:
    robot = service_accounts.create(
        name="Robot", purpose="Reports", responsible=alice, admin=False, auditor=False, actor=alice, now=NOW
    )
    made = start(robot, chosen=["mail.read"])
    shares.share(made, person=bob, level="manage", until=None, actor=alice, now=NOW)
    rule(**SEND)
    wishes = {"name": "Inbox", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(made, actor=bob, now=NOW, **wishes)  # type: ignore[arg-type]
    with pytest.raises(NotAllowed, match="cannot give it"):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)


def test_nobody_asks_microsofts_administrators_for_what_is_not_approved(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    with pytest.raises(ApprovalNeeded):
        requests.request_consent(made, reason="To answer customers.", actor=bob, now=NOW)
    approvals.approve(asked(), actor=alice, now=NOW)
    assert requests.request_consent(made, reason="To answer customers.", actor=bob, now=NOW).permissions


def test_declining_needs_a_reason_which_the_requester_reads(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    with pytest.raises(InvalidInput) as caught:
        approvals.decline(asked(), reason="  ", actor=alice, now=NOW)
    assert caught.value.field == "reason"
    approvals.decline(asked(), reason="Use the team's mailbox.", actor=alice, now=NOW)
    assert "Use the team's mailbox." in Connection.objects.get().status_cause
    with pytest.raises(ApprovalNeeded, match="Alice Admin declined it: Use the team's mailbox"):
        sign_in.begin(made, actor=bob, now=NOW)
    again = approvals.request_missing(made, reason="It has none.", actor=bob, now=NOW)
    assert (again.state, again.reason) == (State.WAITING, "It has none.")


def test_what_was_declined_for_a_connection_that_works_is_taken_back(alice: User, bob: User) -> None:
    rule(**SEND)
    connection = factories.make_connection(owner=bob)
    wishes = {"name": "Invoices", "chosen": ["mail.read", "mail.send"], "extra_scopes": ()}
    connections.change(connection, **wishes, actor=bob, now=NOW)  # type: ignore[arg-type]
    approvals.decline(asked(), reason="No.", actor=alice, now=NOW)
    stored = Connection.objects.get()
    assert (stored.capabilities, stored.status) == (["mail.read"], Status.ACTIVE)
    sign_in.begin(stored, actor=bob, now=NOW)


def test_withdrawing_is_for_who_asked_and_twice_is_once(alice: User, bob: User, dave: User) -> None:
    wish_for_sending(bob)
    for person in (dave, alice):
        with pytest.raises(NotAllowed):
            approvals.withdraw(asked(), actor=person, now=NOW)
    for _ in range(2):
        approvals.withdraw(asked(), actor=bob, now=NOW)
    assert AuditEvent.objects.filter(action="approval.withdrawn").count() == 1
    with pytest.raises(ApprovalNeeded):
        sign_in.begin(Connection.objects.get(), actor=bob, now=NOW)


def test_whoever_has_handed_it_over_changes_its_wishes_no_more(alice: User, bob: User, dave: User) -> None:
    made = wish_for_sending(bob)
    ownership_transfer.transfer(made, dave, keep_grant=True, actor=bob, now=NOW)
    with pytest.raises(NotAllowed):
        approvals.withdraw(asked(), actor=bob, now=NOW)
    approvals.withdraw(asked(), actor=dave, now=NOW)


@pytest.mark.parametrize("first", ["approve", "decline", "withdraw"])
@pytest.mark.parametrize("second", ["approve", "decline", "withdraw"])
def test_of_two_answers_the_first_stands(first: str, second: str, alice: User, anna: User, bob: User) -> None:
    wish_for_sending(bob)
    answers: dict[str, Callable[[User], None]] = {
        "approve": lambda who: approvals.approve(Approval.objects.get(), actor=who, now=NOW),
        "decline": lambda who: approvals.decline(Approval.objects.get(), reason="No.", actor=who, now=NOW),
        "withdraw": lambda who: approvals.withdraw(Approval.objects.get(), actor=bob, now=NOW),
    }
    answers[first](alice)
    state = asked().state
    if first == second:
        answers[second](anna)
    else:
        with pytest.raises(Conflict):
            answers[second](anna)
    assert asked().state == state
    assert AuditEvent.objects.filter(action__startswith="approval.").count() == 2


def test_an_approval_that_the_policy_has_overtaken_is_refused(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        approvals.approve(asked(), actor=alice, now=NOW)
    assert asked().state == State.WAITING
    rule()
    sign_in.begin(made, actor=bob, now=NOW)
    assert (asked().state, asked().decision_reason) == (State.WITHDRAWN, "An approval is no longer needed.")
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        sign_in.begin(made, actor=bob, now=NOW)


def test_an_approval_does_not_outweigh_what_is_forbidden_later(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    approvals.approve(asked(), actor=alice, now=NOW)
    rule(permissions={"Mail.Send": "forbidden"})
    with pytest.raises(PolicyForbids):
        sign_in.begin(made, actor=bob, now=NOW)


def test_removing_the_connection_ends_the_request_and_keeps_its_story(alice: User, bob: User) -> None:
    made = wish_for_sending(bob)
    connections.remove(made, actor=bob, now=NOW)
    request = Approval.objects.get()
    assert (request.connection, request.connection_name, request.state) == (None, "Inbox", State.WITHDRAWN)
    with pytest.raises(Conflict):
        approvals.approve(request, actor=alice, now=NOW)


def test_asking_without_need_or_right_is_refused(bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    with pytest.raises(InvalidInput):
        approvals.request_missing(connection, reason="", actor=bob, now=NOW)
    rule(permissions={"Mail.Read": "approval"})
    with pytest.raises(NotAllowed):
        approvals.request_missing(connection, reason="", actor=dave, now=NOW)
    rule(permissions={"Mail.Read": "forbidden"})
    with pytest.raises(PolicyForbids):
        approvals.request_missing(connection, reason="", actor=bob, now=NOW)
    assert not Approval.objects.exists()


# --- The second IT admin --------------------------------------------------------------------------


def robots() -> AppRegistration:
    return factories.make_app_registration(client_id=seed.ROBOTS_APP, secret=seed.ROBOTS_SECRET, name="Robots")


def test_an_app_only_connection_waits_for_a_second_it_admin(alice: User, anna: User, sandbox: Control) -> None:
    rule(app_only_second_admin=True)
    made = app_only.connect(robots(), name="Nightly", chosen=["mail.read"], actor=alice, now=NOW, reason="Reports.")
    assert made.status == Status.PENDING
    assert sandbox.calls()["by_endpoint"] == {}, "Microsoft is not asked before"
    with pytest.raises(ApprovalNeeded):
        app_only.finish(made, actor=alice, now=NOW)
    with pytest.raises(NotAllowed):
        approvals.approve(asked(), actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)
    for _ in range(2):
        made = app_only.finish(Connection.objects.get(), actor=anna, now=NOW)
    assert made.status == Status.ACTIVE
    assert Connection.objects.get().access_token
    assert AuditEvent.objects.filter(action="connection.connected").count() == 1


def test_every_permission_added_to_it_later_needs_another_one(alice: User, anna: User, sandbox: Control) -> None:
    rule(app_only_second_admin=True)
    made = app_only.connect(robots(), name="Nightly", chosen=["mail.read"], actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)
    made = app_only.finish(made, actor=alice, now=NOW)
    wishes = {"name": "Nightly", "extra_scopes": (), "now": NOW}
    connections.change(made, chosen=["mail.read", "mail.send"], actor=alice, **wishes)  # type: ignore[arg-type]
    assert (asked().state, "Mail.Send" in asked().permissions) == (State.WAITING, True)
    approvals.decline(asked(), reason="No sending.", actor=anna, now=NOW)
    stored = Connection.objects.get()
    assert (stored.capabilities, stored.scopes) == (["mail.read"], "Mail.Read User.Read.All")
    # Less than was approved needs nobody.
    connections.change(stored, chosen=[], actor=alice, name="Nightly", extra_scopes=("User.Read.All",), now=NOW)
    assert Approval.objects.count() == 2


def test_microsoft_saying_no_leaves_the_approval_and_nothing_is_asked_twice(
    alice: User, anna: User, sandbox: Control
) -> None:
    rule(app_only_second_admin=True)
    made = app_only.connect(robots(), name="Nightly", chosen=["mail.read"], actor=alice, now=NOW)
    approvals.approve(asked(), actor=anna, now=NOW)
    sandbox.weather("unavailable", where="token")
    with pytest.raises(Exception, match="Microsoft"):
        app_only.finish(made, actor=alice, now=NOW)
    assert Connection.objects.get().status == Status.PENDING
    assert asked().state == State.APPROVED


# --- Raced ----------------------------------------------------------------------------------------


@pytest.mark.only_on("postgres")
@pytest.mark.django_db(transaction=True)
def test_two_it_admins_at_the_same_moment_give_one_answer(alice: User, anna: User, bob: User) -> None:
    wish_for_sending(bob)
    request = Approval.objects.get()
    barrier, outcomes = threading.Barrier(2), list[str]()

    def answer(who: User, decide: Callable[[], None]) -> None:
        barrier.wait()
        try:
            decide()
            outcomes.append("done")
        except Conflict:
            outcomes.append("too late")
        finally:
            database.close()

    def fresh() -> Approval:
        return Approval.objects.get(pk=request.pk)

    threads = [
        threading.Thread(target=answer, args=(alice, lambda: approvals.approve(fresh(), actor=alice, now=NOW))),
        threading.Thread(
            target=answer, args=(anna, lambda: approvals.decline(fresh(), reason="No", actor=anna, now=NOW))
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["done", "too late"]
    assert AuditEvent.objects.filter(action__in=("approval.approved", "approval.declined")).count() == 1
