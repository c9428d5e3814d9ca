"""An IT admin hides behind service accounts, weak keys and changes that nobody is told about."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from connections.access import permissions
from connections.models import ApiKey, ChangeRequest, Connection, Share, Team, User
from connections.services.api_keys import api_keys
from connections.services.governance import policy
from connections.services.people import accounts, ownership_transfer, service_accounts
from connections.services.policy import four_eyes
from connections.services.policy.four_eyes import SecondPersonNeeded
from connections.services.policy.rules import Rules
from connections.services.sharing import emergency, shares, teams
from tests import audit_triggers, factories
from tests.api.api_client import Program, problem
from tests.records import message_subjects

NOW = timezone.now()


def admin_robot(name: str, *, responsible: User, actor: User) -> User:
    account = service_accounts.create(
        name=name, purpose="", responsible=responsible, admin=True, auditor=False, actor=actor, now=NOW
    )
    return User.objects.get(pk=account.pk)


def issue_key(account: User, actor: User) -> ApiKey:
    expires_at = NOW + timedelta(days=60)
    key, _ = api_keys.issue(
        account, name="Key", scopes=["connections:write"], expires_at=expires_at, actor=actor, now=NOW
    )
    return key


def ask_to_share(connection: Connection, *, requester: User, person: User) -> ChangeRequest:
    with pytest.raises(SecondPersonNeeded) as needed:
        shares.share(connection, person=person, level="use", until=None, actor=requester, now=NOW)
    return four_eyes.ask(needed.value.change, actor=requester, now=NOW)


def prune_audit_trail() -> None:
    """Remove all events, as retention does with old ones."""
    with audit_triggers.removed(), database.cursor() as cursor:
        cursor.execute("DELETE FROM connections_auditevent")


def deciders(change: ChangeRequest, *people: User) -> list[str]:
    return [person.username for person in people if permissions.can_decide_change(person, change)]


def test_retention_does_not_forget_who_issued_a_key(
    alice: User, bob: User, dana: User, dave: User, connection: Connection
) -> None:
    robot = admin_robot("Robot", responsible=dave, actor=alice)
    issue_key(robot, alice)
    change = ask_to_share(connection, requester=robot, person=alice)
    assert deciders(change, alice, bob, dana) == ["bob", "dana"]
    prune_audit_trail()
    assert deciders(change, alice, bob, dana) == ["bob", "dana"]


def test_retention_does_not_forget_who_rotated_a_key(
    alice: User, bob: User, dana: User, dave: User, connection: Connection
) -> None:
    robot = admin_robot("Robot", responsible=dave, actor=dana)
    key = issue_key(robot, dana)
    api_keys.rotate(key, overlap=timedelta(), expires_at=NOW + timedelta(days=60), actor=alice, now=NOW)
    prune_audit_trail()
    change = ask_to_share(connection, requester=robot, person=alice)
    assert deciders(change, alice, bob, dana) == ["bob"]


def test_without_a_record_of_the_issuer_only_uninvolved_it_admins_decide(
    alice: User, bob: User, dana: User, connection: Connection
) -> None:
    robot = admin_robot("Robot", responsible=dana, actor=dana)
    issue_key(robot, dana)
    prune_audit_trail()
    ApiKey.objects.update(issued_by=None)
    emma = factories.make_person("emma")
    emma.groups.add(*alice.groups.all())
    values: dict[str, Any] = {"responsible": dana, "admin": True, "auditor": False}
    service_accounts.change(robot, purpose="Invoices", **values, actor=alice, now=NOW - timedelta(days=1))
    change = ask_to_share(connection, requester=robot, person=alice)
    ChangeRequest.objects.update(requested_at=timezone.now() + timedelta(hours=1))
    change.refresh_from_db()
    assert deciders(change, alice, bob, dana, emma) == ["emma"]


def test_a_service_account_behind_a_service_account_is_no_way_round(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    first = admin_robot("First", responsible=dave, actor=alice)
    issue_key(first, alice)
    second = admin_robot("Second", responsible=dave, actor=first)
    issue_key(second, first)
    change = ask_to_share(connection, requester=second, person=alice)
    assert deciders(change, alice, bob) == ["bob"]


def test_a_key_without_admin_write_neither_approves_nor_carries_out_a_looser_policy(alice: User, dana: User) -> None:
    policy.change(None, Rules(app_only_second_admin=True), actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded) as needed:
        policy.change(None, Rules(), actor=alice, now=NOW)
    path = f"change-requests/{four_eyes.ask(needed.value.change, actor=alice, now=NOW).pk}"
    weak, full = ["connections:write"], ["connections:write", "admin:write"]
    assert problem(Program(dana, scopes=weak).post(f"{path}/approve")) == (403, "not_allowed")
    assert problem(Program(dana, scopes=weak).post(f"{path}/decline", {"reason": "No."})) == (403, "not_allowed")
    assert Program(dana, scopes=full).post(f"{path}/approve").status_code == 200
    assert problem(Program(alice, scopes=weak).post(f"{path}/carry-out")) == (403, "not_allowed")
    assert policy.stored_policy().rules.app_only_second_admin
    assert Program(alice, scopes=full).post(f"{path}/carry-out").status_code == 200


def test_only_the_owner_approves_a_share_without_admin_write(
    alice: User, bob: User, dana: User, connection: Connection
) -> None:
    weak = ["connections:write"]
    path = f"change-requests/{ask_to_share(connection, requester=alice, person=alice).pk}"
    assert problem(Program(dana, scopes=weak).post(f"{path}/approve")) == (403, "not_allowed")
    assert Program(bob, scopes=weak).post(f"{path}/approve").status_code == 200
    assert Program(alice, scopes=weak).post(f"{path}/carry-out").status_code == 200


def test_making_herself_responsible_and_what_follows_is_told(alice: User, bob: User, dana: User, dave: User) -> None:
    robot = factories.make_service_account(responsible=bob)
    connection = factories.make_connection(owner=robot)
    values: dict[str, Any] = {"purpose": robot.purpose, "admin": False, "auditor": False, "now": NOW}
    service_accounts.change(robot, responsible=alice, actor=alice, **values)
    assert message_subjects(bob.email) == ["Alice Admin made Alice Admin responsible for Invoice robots"]
    shares.share(connection, person=dave, level="use", until=None, actor=alice, now=NOW)
    assert message_subjects(dana.email) == ["Alice Admin shared Invoices with Dave Stranger"]
    service_accounts.change(robot, responsible=dave, actor=dana, **values)
    subject = "Dana made Dave Stranger responsible for Invoice robots"
    assert message_subjects(alice.email)[-1] == message_subjects(dave.email)[-1] == subject


def test_taking_over_an_account_of_nobody_is_told_to_the_other_it_admins(alice: User, dana: User) -> None:
    robot = factories.make_service_account(responsible=None)
    service_accounts.change(robot, purpose="", responsible=alice, admin=False, auditor=False, actor=alice, now=NOW)
    assert message_subjects(dana.email) == ["Alice Admin made Alice Admin responsible for Invoice robots"]
    assert message_subjects(alice.email) == []


def test_a_changed_emergency_share_keeps_its_reason(alice: User, connection: Connection) -> None:
    emergency_share = emergency.take(connection, hours=2, reason="A fire.", actor=alice, now=NOW)
    assert emergency_share.until is not None
    shorter = emergency_share.until - timedelta(seconds=1)
    changed = shares.share(connection, person=alice, level="use", until=shorter, actor=alice, now=NOW)
    assert changed.emergency_reason == Share.objects.get().emergency_reason == "A fire."


@pytest.mark.parametrize("way", ["end", "shorten", "remove_team", "remove_person"])
def test_the_owner_reads_that_others_end_or_shorten_a_share(
    way: str, alice: User, bob: User, dave: User, connection: Connection
) -> None:
    team = Team.objects.create(name="Finance")
    whom: dict[str, Any] = {"team": team} if way == "remove_team" else {"person": dave}
    share = Share.objects.create(connection=connection, created_by=bob, **whom)
    if way == "end":
        shares.end_for_reason(share, "Policy.", actor=alice, now=NOW)
    elif way == "shorten":
        shares.shorten_for_reason(share, "Policy.", until=NOW + timedelta(days=1), actor=alice, now=NOW)
    elif way == "remove_team":
        teams.remove(team, actor=alice, now=NOW)
    else:
        accounts.remove(dave, actor=alice, now=NOW)
    recipient = "the team Finance" if way == "remove_team" else "Dave Stranger"
    verb = "shortened" if way == "shorten" else "ended"
    assert message_subjects(bob.email) == [f"Alice Admin {verb} the access to Invoices of {recipient}"]


def test_the_owner_is_not_told_of_their_own_changes_or_expiry(bob: User, dave: User, connection: Connection) -> None:
    until = NOW + timedelta(days=3)
    share = Share.objects.create(connection=connection, person=dave, created_by=bob, until=until)
    shares.shorten_for_reason(share, "", until=NOW + timedelta(days=2), actor=bob, now=NOW)
    shares.end_for_reason(share, "", actor=bob, now=NOW)
    Share.objects.create(connection=connection, person=dave, created_by=bob, until=until)
    assert shares.end_expired(now=until) == 1
    Share.objects.create(connection=connection, person=dave, created_by=bob)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=bob, now=NOW)
    assert message_subjects(bob.email) == []
    assert not any("ended the access" in subject for subject in message_subjects(dave.email))


def test_the_owner_reads_who_comes_in_through_an_entra_group(alice: User, bob: User, connection: Connection) -> None:
    team = Team.objects.create(name="Finance")
    Share.objects.create(connection=connection, team=team, created_by=bob)
    with pytest.raises(SecondPersonNeeded) as needed:
        teams.change(team, name="Finance", entra_group="group-1", actor=alice)
    change = four_eyes.ask(needed.value.change, actor=alice, now=timezone.now())
    four_eyes.approve(change, actor=bob, now=timezone.now())
    teams.change(team, name="Finance", entra_group="group-1", actor=alice)
    teams.sync_groups(factories.make_person("una"), ["group-1"])
    teams.sync_groups(bob, ["group-1"])
    assert message_subjects(bob.email)[1:] == [
        "Alice Admin changed the Entra group of the team Finance, which can use Invoices",
        "Una User joined, through its Entra group, the team Finance, which can use Invoices",
    ]
