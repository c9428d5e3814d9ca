"""An IT admin without access to Bob's connection tries every way to its tokens on her own."""

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from connections.access import permissions
from connections.models import AuditEvent, ChangeRequest, Connection, Delivery, Share, Team, TeamMember, User
from connections.services.api_keys import api_keys
from connections.services.connections import change_requests
from connections.services.people import ownership_transfer, service_accounts
from connections.services.policy import four_eyes
from connections.services.policy.four_eyes import SecondPersonNeeded
from connections.services.sharing import emergency, shares, teams
from tests import factories
from tests.api.api_client import Program, problem
from tests.records import message_subjects
from tests.views.pages import SignIn

NOW = timezone.now()


def share(connection: Connection, actor: User, **whom: Any) -> Share:
    return shares.share(connection, **{"level": "use", "until": None, "actor": actor, "now": NOW, **whom})


def decide(change: ChangeRequest, actor: User) -> None:
    four_eyes.approve(change, actor=actor, now=NOW)


def test_the_attack_of_the_issue_on_the_pages(
    alice: User, bob: User, connection: Connection, signed_in: SignIn
) -> None:
    admin = signed_in(alice)
    program = Program(alice)
    assert program.get(f"connections/{connection.pk}/token").status_code == 403
    form = {"whom": f"person:{alice.pk}", "level": "use", "understood": "on"}
    response = admin.post(f"/connections/{connection.pk}/shares/add/", form)
    change = ChangeRequest.objects.get()
    assert (response.status_code, response["Location"]) == (302, f"/change-requests/{change.pk}/")
    assert program.get(f"connections/{connection.pk}/token").status_code == 403
    assert message_subjects(bob.email) == ["Approval requested: Sharing Invoices with Alice Admin"]
    assert admin.post(f"/change-requests/{change.pk}/approve/").status_code == 403
    assert admin.post(f"/change-requests/{change.pk}/carry-out/").status_code == 302
    assert not Share.objects.exists()


def test_the_attack_of_the_issue_over_the_api(alice: User, connection: Connection) -> None:
    program = Program(alice)
    for _ in range(2):
        response = program.post(f"connections/{connection.pk}/shares", {"person_id": alice.pk})
        assert problem(response) == (409, "second_person_needed")
    change = ChangeRequest.objects.get()
    assert response.json()["change_request"] == change.pk
    assert problem(program.post(f"change-requests/{change.pk}/approve")) == (403, "not_allowed")
    assert problem(program.post(f"change-requests/{change.pk}/carry-out")) == (409, "changed_meanwhile")
    assert not Share.objects.exists()


@pytest.mark.parametrize("decider", ["bob", "dana"])
def test_the_owner_or_a_second_it_admin_can_agree(
    alice: User, bob: User, dana: User, connection: Connection, decider: str
) -> None:
    with pytest.raises(SecondPersonNeeded) as needed:
        share(connection, alice, person=alice)
    change = four_eyes.ask(needed.value.change, actor=alice, now=NOW)
    decide(change, {"bob": bob, "dana": dana}[decider])
    change_requests.carry_out(change, actor=alice, now=NOW)
    assert permissions.can_fetch_token(alice, connection)
    assert "Alice Admin shared Invoices with Alice Admin" in message_subjects(bob.email)
    Share.objects.all().delete()
    with pytest.raises(SecondPersonNeeded):  # an approval is used once
        share(connection, alice, person=alice)


def test_an_approval_allows_exactly_what_was_asked_for_a_limited_time(
    alice: User, dana: User, connection: Connection
) -> None:
    with pytest.raises(SecondPersonNeeded) as needed:
        share(connection, alice, person=alice, until=NOW + timedelta(days=1))
    decide(four_eyes.ask(needed.value.change, actor=alice, now=NOW), dana)
    for other in ({"level": "manage"}, {"until": None}, {"until": NOW + timedelta(days=2)}):
        with pytest.raises(SecondPersonNeeded):
            share(connection, alice, **{"person": alice, "until": NOW + timedelta(days=1), **other})
    late = NOW + four_eyes.LIFETIME
    with pytest.raises(SecondPersonNeeded):
        share(connection, alice, person=alice, until=NOW + timedelta(days=1) * 9, now=late)
    share(connection, alice, person=alice, until=NOW + timedelta(days=1))


def test_strangers_auditors_and_her_own_accounts_cannot_agree(
    alice: User, carol: User, dave: User, connection: Connection
) -> None:
    robots = factories.make_service_account(responsible=alice)
    robots.groups.add(*alice.groups.all())
    with pytest.raises(SecondPersonNeeded) as needed:
        share(connection, robots, person=alice)
    change = four_eyes.ask(needed.value.change, actor=robots, now=NOW)
    assert not any(permissions.can_decide_change(person, change) for person in (alice, carol, dave, robots))


def test_her_own_service_account_gets_no_access(alice: User, connection: Connection) -> None:
    with pytest.raises(SecondPersonNeeded):
        share(connection, alice, person=factories.make_service_account())


@pytest.mark.parametrize("is_member", [True, False])
def test_no_team_gets_access_because_she_chooses_its_members(
    alice: User, connection: Connection, is_member: bool
) -> None:
    team = Team.objects.create(name="Mine")
    if is_member:
        TeamMember.objects.create(team=team, user=alice)
    with pytest.raises(SecondPersonNeeded):
        share(connection, alice, team=team)


def test_she_joins_no_team_that_can_use_it(alice: User, bob: User, connection: Connection, signed_in: SignIn) -> None:
    team = Team.objects.create(name="Finance")
    share(connection, bob, team=team)
    robots = factories.make_service_account()
    for account in (alice, robots):
        with pytest.raises(SecondPersonNeeded):
            teams.add_member(team, account, actor=alice, now=NOW)
    with pytest.raises(SecondPersonNeeded):
        teams.change(team, name=team.name, entra_group="a-group-of-hers", actor=alice)
    signed_in(alice).post(f"/teams/{team.pk}/members/add/", {"user": "alice"})
    assert ChangeRequest.objects.get().kind == "team_member"
    assert not TeamMember.objects.exists()
    teams.add_member(team, factories.make_person("una"), actor=alice, now=NOW)
    assert message_subjects(bob.email)[-1] == "Alice Admin added Una User to the team Finance, which can use Invoices"


def test_she_transfers_nothing_to_herself_and_back(alice: User, bob: User, connection: Connection) -> None:
    with pytest.raises(SecondPersonNeeded):
        ownership_transfer.transfer(connection, alice, keep_grant=True, actor=alice, now=NOW)
    # Without the tokens there is nothing to take; the owner reads about it all the same.
    ownership_transfer.transfer(connection, alice, keep_grant=False, actor=alice, now=NOW)
    assert message_subjects(bob.email) == ["Alice Admin transferred Invoices to Alice Admin"]
    assert Connection.objects.defer(None).get().access_token is None


def test_she_gets_no_secret_of_a_service_account_that_can_use_it(
    alice: User, bob: User, connection: Connection, signed_in: SignIn
) -> None:
    robots = factories.make_service_account()
    options: dict[str, Any] = {"scopes": ["token:read"], "expires_at": NOW + timedelta(days=9), "now": NOW}
    key, _ = api_keys.issue(robots, name="Old", actor=alice, **options)
    share(connection, bob, person=robots)
    with pytest.raises(SecondPersonNeeded):
        api_keys.issue(robots, name="New", actor=alice, **options)
    rotating: dict[str, Any] = {"overlap": timedelta(), "expires_at": NOW + timedelta(days=9), "now": NOW}
    for disable in (False, True):
        if disable:
            service_accounts.disable(robots, actor=alice, now=NOW)
        with pytest.raises(SecondPersonNeeded):
            api_keys.rotate(key, actor=alice, **rotating)
    service_accounts.enable(robots, actor=alice, now=NOW)
    response = signed_in(alice).post(f"/api-keys/{key.pk}/rotate/", {"overlap": "24", "expires_on": "2030-01-01"})
    change = ChangeRequest.objects.filter(kind="api_key").first()
    assert change is None or response["Location"] == f"/change-requests/{change.pk}/"


def test_an_admin_service_account_is_no_way_round(alice: User, bob: User, connection: Connection) -> None:
    robots = factories.make_service_account(responsible=alice)
    robots.groups.add(*alice.groups.all())
    for whom in ({"person": alice}, {"person": robots}, {"team": Team.objects.create(name="Any")}):
        with pytest.raises(SecondPersonNeeded):
            share(connection, robots, **whom)
    with pytest.raises(SecondPersonNeeded):
        ownership_transfer.transfer(connection, alice, keep_grant=True, actor=robots, now=NOW)


def test_a_configuration_file_is_no_way_round(alice: User, bob: User, connection: Connection, tmp_path: Any) -> None:
    share(connection, bob, team=Team.objects.create(name="Finance"))
    file = tmp_path / "portal.yaml"
    file.write_text("version: 1\nteams:\n  - name: Finance\n    members: [alice]\n")
    with pytest.raises(CommandError, match="needs approval"):
        call_command("apply_config", str(file), "--as", "alice", "--yes")
    assert not TeamMember.objects.exists()


def test_the_admin_site_is_no_way_round(alice: User, connection: Connection, signed_in: SignIn) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    client = signed_in(User.objects.get(pk=alice.pk))
    for path in ("share/add/", f"connection/{connection.pk}/change/", "teammember/add/", "apikey/add/"):
        response = client.post(f"/admin/connections/{path}", {"person": alice.pk, "owner": alice.pk})
        assert response.status_code in (403, 404), path
    assert Connection.objects.get().owner.username == "bob"


def test_a_manager_passes_on_no_more_than_they_have(bob: User, dave: User, connection: Connection) -> None:
    max_ = factories.make_person("max")
    until = NOW + timedelta(days=2)
    share(connection, bob, person=max_, level="manage", until=until)
    with pytest.raises(SecondPersonNeeded):
        share(connection, max_, person=max_, level="manage")
    team = Team.objects.create(name="Max and friends")
    TeamMember.objects.create(team=team, user=max_)
    with pytest.raises(SecondPersonNeeded):
        share(connection, max_, team=team)
    share(connection, max_, team=team, until=until)
    share(connection, max_, person=dave)
    assert message_subjects(bob.email)[-1] == "Max Manager shared Invoices with Dave Stranger"


def test_the_owner_reads_whatever_others_do(alice: User, bob: User, dave: User, connection: Connection) -> None:
    User.objects.get(pk=bob.pk)
    from connections.services.connections import connections
    from connections.services.notifications import alerts

    alerts.set_preferences(bob, actor=bob, messages=False)
    bob.refresh_from_db()
    share_with_dave = share(connection, alice, person=dave)
    shares.end_share(share_with_dave, actor=alice, now=NOW)
    connections.disable(connection, actor=alice, now=NOW)
    connections.enable(connection, actor=alice, now=NOW)
    assert message_subjects(bob.email) == [
        "Alice Admin shared Invoices with Dave Stranger",
        "Alice Admin ended the access to Invoices of Dave Stranger",
        "Alice Admin disabled Invoices",
        "Alice Admin enabled Invoices",
    ]


def test_emergency_access_alarms_everybody_and_ends_by_itself(
    alice: User, bob: User, carol: User, dana: User, dave: User, connection: Connection, signed_in: SignIn
) -> None:
    form = {"hours": "2", "reason": "Bob is in hospital and the invoices are due."}
    assert signed_in(alice).post(f"/connections/{connection.pk}/emergency/", form).status_code == 302
    event = AuditEvent.objects.get(action="connection.emergency_access")
    assert event.changes["reason"] == form["reason"]
    alarm = "Emergency access: Alice Admin can use Invoices"
    assert all(message_subjects(person.email) == [alarm] for person in (alice, bob, carol, dana))
    assert message_subjects(dave.email) == []
    assert Program(alice).get(f"connections/{connection.pk}/token").status_code == 200
    assert form["reason"] in signed_in(bob).get(f"/connections/{connection.pk}/").content.decode()
    granted = Share.objects.get()
    assert (granted.level, granted.person) == ("use", alice)
    assert not granted.is_active(timezone.now() + timedelta(hours=2))
    with pytest.raises(SecondPersonNeeded):
        share(connection, alice, person=alice)


@pytest.mark.parametrize("bad", [{"hours": 0}, {"hours": 5}, {"reason": " "}])
def test_emergency_access_is_short_and_has_a_reason(alice: User, connection: Connection, bad: dict[str, Any]) -> None:
    body = {"hours": 1, "reason": "An outage.", **bad}
    assert Program(alice).post(f"connections/{connection.pk}/emergency-access", body).status_code == 422
    assert not Share.objects.exists()


def test_emergency_access_is_for_it_admins_in_person(
    alice: User, bob: User, carol: User, dave: User, connection: Connection
) -> None:
    robots = factories.make_service_account()
    robots.groups.add(*alice.groups.all())
    body: dict[str, Any] = {"hours": 1, "reason": "An outage."}
    statuses = [
        Program(person).post(f"connections/{connection.pk}/emergency-access", body).status_code
        for person in (bob, carol, dave, robots)
    ]
    assert statuses == [403, 403, 404, 403]
    emergency.take(connection, **body, actor=alice, now=timezone.now())
    assert Program(alice).post(f"connections/{connection.pk}/emergency-access", body).status_code == 403


def test_the_request_page_shows_the_decision_to_those_who_can_decide(
    alice: User, bob: User, dave: User, connection: Connection, signed_in: SignIn
) -> None:
    Program(alice).post(f"connections/{connection.pk}/shares", {"person_id": alice.pk})
    path = f"/change-requests/{ChangeRequest.objects.get().pk}/"
    assert "Approve" in signed_in(bob).get(path).content.decode()
    assert "/approve/" not in signed_in(alice).get(path).content.decode()
    assert signed_in(dave).get(path).status_code == 404
    owner: Client = signed_in(bob)
    assert owner.post(f"{path}decline/", {"reason": ""}).status_code == 422
    assert owner.post(f"{path}decline/", {"reason": "Ask me first."}).status_code == 302
    assert "Ask me first." in json.dumps([row.payload for row in Delivery.objects.filter(email=alice.email)])
