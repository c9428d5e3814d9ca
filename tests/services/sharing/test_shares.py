"""Sharing: who may use what from which moment on, and until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone

from connections.access import permissions, querysets
from connections.errors import InvalidInput, NotAllowed
from connections.models import AuditEvent, Connection, Share, Team, User
from connections.services.people import accounts
from connections.services.sharing import shares, teams
from tests import factories
from tests.api.api_client import Program

pytestmark = pytest.mark.django_db

NOW = timezone.now()
SignIn = Callable[[User], Client]


def forget(user: User) -> User:
    """The same person at the next request."""
    return User.objects.get(pk=user.pk)


def give(
    connection: Connection,
    to: User | Team,
    *,
    level: str = "use",
    until: datetime | None = None,
    by: User | None = None,
) -> Share:
    whom = {"team": to} if isinstance(to, Team) else {"person": to}
    return shares.share(connection, **whom, level=level, until=until, actor=by or connection.owner, now=NOW)  # type: ignore[arg-type]


def test_a_share_opens_the_connection_and_its_end_closes_it_at_once(bob: User, dave: User, signed_in: SignIn) -> None:
    connection = factories.make_connection(owner=bob)
    client = signed_in(dave)
    assert client.get(f"/connections/{connection.pk}/").status_code == 404

    found = give(connection, dave)
    page = client.get(f"/connections/{connection.pk}/")
    assert page.status_code == 200
    assert "Sign in again" not in page.content.decode()
    assert permissions.can_fetch_token(forget(dave), connection)

    shares.end_share(found, actor=bob, now=NOW)
    assert client.get(f"/connections/{connection.pk}/").status_code == 404
    assert not permissions.can_fetch_token(forget(dave), connection)
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert actions == ["connection.shared", "connection.unshared"]


@pytest.mark.parametrize(
    ("level", "may"),
    [("use", {"see", "fetch"}), ("manage", {"see", "fetch", "reconnect", "check", "share"})],
)
def test_each_level_allows_what_the_table_says(bob: User, dave: User, level: str, may: set[str]) -> None:
    connection = factories.make_connection(owner=bob)
    give(connection, dave, level=level)
    asked = {
        "see": querysets.visible_connections(dave).filter(pk=connection.pk).exists(),
        "fetch": permissions.can_fetch_token(dave, connection),
        "reconnect": permissions.can_reconnect(dave, connection),
        "check": permissions.can_check(dave, connection),
        "share": permissions.can_share(dave, connection),
        "disable": permissions.can_disable(dave, connection),
    }
    assert {name for name, allowed in asked.items() if allowed} == may


def test_a_team_brings_its_members_in_and_leaving_it_takes_them_out(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    team = teams.add("Finance", actor=alice)
    give(connection, team)
    assert not permissions.can_fetch_token(dave, connection)
    teams.add_member(team, dave, actor=alice)
    assert permissions.can_fetch_token(forget(dave), connection)
    teams.remove_member(team, dave, actor=alice)
    assert not permissions.can_fetch_token(forget(dave), connection)


def test_a_share_ends_by_itself_on_its_date_and_can_be_given_again(bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    found = give(connection, dave, until=NOW + timedelta(days=1))
    assert found.is_active(NOW + timedelta(hours=23))
    Share.objects.update(until=NOW - timedelta(seconds=1))
    assert not permissions.can_fetch_token(forget(dave), connection)

    again = give(connection, dave)
    assert again.pk != found.pk
    assert permissions.can_fetch_token(forget(dave), connection)
    assert Share.objects.get(pk=found.pk).ended_at == NOW - timedelta(seconds=1)


def test_sharing_twice_changes_the_share_instead_of_doubling_it(bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    give(connection, dave)
    give(connection, dave)
    give(connection, dave, level="manage")
    assert Share.objects.get().level == "manage"
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "connection.shared",
        "connection.share_changed",
    ]


def test_being_an_it_admin_is_not_enough_to_fetch_a_token(alice: User, carol: User, bob: User) -> None:
    connection = factories.make_connection(owner=bob)
    assert not permissions.can_fetch_token(alice, connection)
    assert not permissions.can_fetch_token(carol, connection)
    give(connection, alice, by=alice)
    assert permissions.can_fetch_token(forget(alice), connection)


def test_strangers_users_and_auditors_do_not_share(bob: User, dave: User, carol: User) -> None:
    connection = factories.make_connection(owner=bob)
    for person in (dave, carol):
        with pytest.raises(NotAllowed):
            give(connection, dave, by=person)
    give(connection, dave)
    with pytest.raises(NotAllowed):
        give(connection, carol, by=forget(dave))


@pytest.mark.parametrize("until", [NOW, NOW - timedelta(days=1), NOW + timedelta(days=5000)])
def test_an_end_that_makes_no_sense_is_refused(bob: User, dave: User, until: datetime) -> None:
    with pytest.raises(InvalidInput):
        give(factories.make_connection(owner=bob), dave, until=until)


def test_the_owner_and_nobody_at_all_are_refused(bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    with pytest.raises(InvalidInput):
        give(connection, bob)
    with pytest.raises(InvalidInput):
        shares.share(connection, level="use", until=None, actor=bob, now=NOW)


def test_nothing_is_shared_with_somebody_who_cannot_sign_in(bob: User) -> None:
    with pytest.raises(InvalidInput, match="cannot sign in"):
        give(factories.make_connection(owner=bob), factories.make_person("off", is_active=False))
    assert not Share.objects.exists()


def test_somebody_may_give_back_what_was_shared_with_them(bob: User, dave: User) -> None:
    found = give(factories.make_connection(owner=bob), dave)
    shares.end_share(found, actor=dave, now=NOW)
    shares.end_share(found, actor=dave, now=NOW)
    assert AuditEvent.objects.filter(action="connection.unshared").count() == 1


def test_removing_a_team_ends_what_was_shared_with_it(alice: User, bob: User, dave: User) -> None:
    connection = factories.make_connection(owner=bob)
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice)
    give(connection, team)
    teams.remove(team, actor=alice)
    assert not permissions.can_fetch_token(forget(dave), connection)
    assert AuditEvent.objects.filter(action="connection.unshared").count() == 1


def test_nobody_is_put_into_a_following_team_or_taken_out_by_hand(
    alice: User, bob: User, dave: User, signed_in: SignIn
) -> None:
    team = teams.add("Finance", entra_group="group-1", actor=alice)
    accounts.update_from_directory(dave, claims={"name": "Dave Stranger", "groups": ["group-1"]})
    program, path = Program(alice), f"teams/{team.pk}/members"
    assert program.send("put", f"{path}/{bob.pk}").status_code == 422
    assert program.delete(f"{path}/{dave.pk}").status_code == 422
    answer = signed_in(alice).post(f"/teams/{team.pk}/members/add/", {"user": bob.pk})
    assert b"follows a group of the directory" in answer.content
    assert list(team.members.all()) == [dave]


def test_a_following_team_follows_its_group_at_each_sign_in(alice: User, dave: User) -> None:
    teams.add("Finance", entra_group="group-1", actor=alice)
    by_hand = teams.add("Friends", actor=alice)
    teams.add_member(by_hand, dave, actor=alice)
    claims = {"name": "Dave Stranger", "groups": ["group-1", "group-2"]}
    accounts.update_from_directory(dave, claims=claims)
    assert set(dave.teams.values_list("name", flat=True)) == {"Finance", "Friends"}
    accounts.update_from_directory(dave, claims={**claims, "groups": []})
    assert set(dave.teams.values_list("name", flat=True)) == {"Friends"}


def test_the_page_says_what_sharing_means_and_wants_it_read(bob: User, dave: User, signed_in: SignIn) -> None:
    connection = factories.make_connection(owner=bob)
    client = signed_in(bob)
    url = f"/connections/{connection.pk}/shares/add/"
    page = client.get(url).content.decode()
    assert "Everything done with this connection is done as Ada Lovelace" in page
    assert "Read mail" in page
    refused = client.post(url, {"whom": f"person:{dave.pk}", "level": "use"})
    assert refused.status_code == 422
    assert "Read above what it means" in refused.content.decode()
    client.post(url, {"whom": f"person:{dave.pk}", "level": "use", "understood": "on", "until": "2028-01-31"})
    assert Share.objects.get().until.isoformat() == "2028-02-01T00:00:00+00:00"
    assert "Dave Stranger" in client.get(f"/connections/{connection.pk}/").content.decode()


def test_app_only_connections_say_that_they_reach_the_whole_tenant(alice: User, signed_in: SignIn) -> None:
    connection = factories.make_app_only_connection(owner=alice)
    page = signed_in(alice).get(f"/connections/{connection.pk}/shares/add/").content.decode()
    assert "in the whole of Contoso" in page


def test_the_page_also_names_what_no_capability_tells(bob: User, alice: User, signed_in: SignIn) -> None:
    granted = "Mail.Read Contacts.ReadWrite Sites.FullControl.All Unheard-Of.Thing openid profile"
    mine = factories.make_connection(owner=bob, granted_scopes=granted)
    page = signed_in(bob).get(f"/connections/{mine.pk}/shares/add/").content.decode()
    assert "Contacts: read and change" in page
    assert "Sites: control fully, wherever the account may" in page
    assert "Unheard of: thing" in page
    assert "openid" not in page
    robot = factories.make_app_only_connection(owner=alice, granted_scopes="Mail.Read Directory.ReadWrite.All")
    page = signed_in(alice).get(f"/connections/{robot.pk}/shares/add/").content.decode()
    assert "one can, in the whole of Contoso:" in page
    assert "Directory: read and change, in the whole organisation" in page


def test_the_page_does_not_hide_that_nothing_is_granted_yet(bob: User, alice: User, signed_in: SignIn) -> None:
    waiting = factories.make_connection(owner=bob, granted_scopes="", connected_at=None, status="pending")
    Connection.objects.filter(pk=waiting.pk).update(connected_at=None)
    page = signed_in(bob).get(f"/connections/{waiting.pk}/shares/add/").content.decode()
    assert "Nothing is granted yet." in page
    robot = factories.make_app_only_connection(owner=alice, granted_scopes="")
    page = signed_in(alice).get(f"/connections/{robot.pk}/shares/add/").content.decode()
    assert "It reaches the mailboxes Exchange lets the application into." in page


def test_unsharing_takes_a_browser_session_out_in_the_middle(bob: User, dave: User, signed_in: SignIn) -> None:
    connection = factories.make_connection(owner=bob)
    found = give(connection, dave, level="manage")
    client = signed_in(dave)
    assert client.get(f"/connections/{connection.pk}/edit/").status_code == 200
    shares.end_share(found, actor=bob, now=NOW)
    assert client.post(f"/connections/{connection.pk}/edit/", {"name": "Mine now"}).status_code == 404
    assert client.post(f"/connections/{connection.pk}/sign-in/").status_code == 404
