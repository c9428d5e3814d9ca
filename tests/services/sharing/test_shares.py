from collections.abc import Callable
from datetime import UTC, datetime, timedelta

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
from tests.views.pages import assert_answer, assert_shows, text

NOW = timezone.now()
SignIn = Callable[[User], Client]


def reload(user: User) -> User:
    """Load the user again, as the next request would, without cached roles."""
    return User.objects.get(pk=user.pk)


def give(
    connection: Connection,
    to: User | Team,
    *,
    level: str = "use",
    until: datetime | None = None,
    by: User | None = None,
) -> Share:
    recipient = {"team": to} if isinstance(to, Team) else {"person": to}
    return shares.share(connection, **recipient, level=level, until=until, actor=by or connection.owner, now=NOW)


def test_a_share_gives_access_and_ending_it_removes_access_at_once(
    bob: User, dave: User, connection: Connection
) -> None:
    client = factories.signed_in(dave)
    assert client.get(f"/connections/{connection.pk}/").status_code == 404

    share = give(connection, dave)
    page = client.get(f"/connections/{connection.pk}/")
    assert page.status_code == 200
    assert "Sign in again" not in page.content.decode()
    assert permissions.can_fetch_token(reload(dave), connection)

    shares.end_share(share, actor=bob, now=NOW)
    assert client.get(f"/connections/{connection.pk}/").status_code == 404
    assert not permissions.can_fetch_token(reload(dave), connection)
    actions = list(AuditEvent.objects.order_by("pk").values_list("action", flat=True))
    assert actions == ["connection.shared", "connection.unshared"]


@pytest.mark.parametrize(
    ("level", "may"), [("use", {"see", "fetch"}), ("manage", {"see", "fetch", "reconnect", "check", "share"})]
)
def test_each_level_allows_its_actions(dave: User, level: str, may: set[str], connection: Connection) -> None:
    give(connection, dave, level=level)
    permitted = {
        "see": querysets.visible_connections(dave).filter(pk=connection.pk).exists(),
        "fetch": permissions.can_fetch_token(dave, connection),
        "reconnect": permissions.can_reconnect(dave, connection),
        "check": permissions.can_check(dave, connection),
        "share": permissions.can_share(dave, connection),
        "disable": permissions.can_disable(dave, connection),
    }
    assert {name for name, allowed in permitted.items() if allowed} == may


def test_team_members_have_access_until_they_leave(alice: User, dave: User, connection: Connection) -> None:
    team = teams.add("Finance", actor=alice)
    give(connection, team)
    assert not permissions.can_fetch_token(dave, connection)
    teams.add_member(team, dave, actor=alice)
    assert permissions.can_fetch_token(reload(dave), connection)
    teams.remove_member(team, dave, actor=alice)
    assert not permissions.can_fetch_token(reload(dave), connection)


def test_an_expired_share_gives_no_access_and_can_be_renewed(dave: User, connection: Connection) -> None:
    share = give(connection, dave, until=NOW + timedelta(days=1))
    assert share.is_active(NOW + timedelta(hours=23))
    Share.objects.update(until=NOW - timedelta(seconds=1))
    assert not permissions.can_fetch_token(reload(dave), connection)

    assert give(connection, dave).pk != share.pk
    assert permissions.can_fetch_token(reload(dave), connection)
    assert Share.objects.get(pk=share.pk).ended_at == NOW - timedelta(seconds=1)


def test_sharing_again_changes_the_existing_share(dave: User, connection: Connection) -> None:
    give(connection, dave)
    give(connection, dave)
    give(connection, dave, level="manage")
    assert Share.objects.get().level == "manage"
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "connection.shared",
        "connection.share_changed",
    ]


def test_being_an_it_admin_is_not_enough_to_fetch_a_token(alice: User, carol: User, connection: Connection) -> None:
    assert not permissions.can_fetch_token(alice, connection)
    assert not permissions.can_fetch_token(carol, connection)
    give(connection, alice)
    assert permissions.can_fetch_token(reload(alice), connection)


def test_strangers_users_and_auditors_cannot_share(dave: User, carol: User, connection: Connection) -> None:
    for person in (dave, carol):
        with pytest.raises(NotAllowed):
            give(connection, dave, by=person)
    give(connection, dave)
    with pytest.raises(NotAllowed):
        give(connection, carol, by=reload(dave))


def test_invalid_dates_and_recipients_are_refused(bob: User, dave: User, connection: Connection) -> None:
    for until in (NOW, NOW - timedelta(days=1), NOW + timedelta(days=5000)):
        with pytest.raises(InvalidInput, match="within the next three years"):
            give(connection, dave, until=until)
    with pytest.raises(InvalidInput, match="owns this connection"):
        give(connection, bob)
    with pytest.raises(InvalidInput, match="can't sign in"):
        give(connection, factories.make_person("off", is_active=False))
    with pytest.raises(InvalidInput, match="a person or a team"):
        shares.share(connection, level="use", until=None, actor=bob, now=NOW)
    assert not Share.objects.exists()


def test_recipients_can_end_their_own_share_once(bob: User, dave: User) -> None:
    share = give(factories.make_connection(owner=bob), dave)
    shares.end_share(share, actor=dave, now=NOW)
    shares.end_share(share, actor=dave, now=NOW)
    assert AuditEvent.objects.filter(action="connection.unshared").count() == 1


def test_removing_a_team_ends_what_was_shared_with_it(alice: User, dave: User, connection: Connection) -> None:
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice)
    give(connection, team)
    teams.remove(team, actor=alice)
    assert not permissions.can_fetch_token(reload(dave), connection)
    assert AuditEvent.objects.filter(action="connection.unshared").count() == 1


def test_members_of_a_following_team_cannot_be_changed_manually(alice: User, bob: User, dave: User) -> None:
    team = teams.add("Finance", entra_group="group-1", actor=alice)
    accounts.update_from_directory(dave, claims={"name": "Dave Stranger", "groups": ["group-1"]})
    program, path = Program(alice), f"teams/{team.pk}/members"
    assert program.send("put", f"{path}/{bob.pk}").status_code == 422
    assert program.delete(f"{path}/{dave.pk}").status_code == 422
    response = factories.signed_in(alice).post(f"/teams/{team.pk}/members/add/", {"user": "bob"})
    assert b"synchronised with a directory group" in response.content
    assert list(team.members.all()) == [dave]


def test_a_following_team_follows_its_group_at_each_sign_in(alice: User, dave: User) -> None:
    teams.add("Finance", entra_group="group-1", actor=alice)
    teams.add_member(teams.add("Friends", actor=alice), dave, actor=alice)
    claims = {"name": "Dave Stranger", "groups": ["group-1", "group-2"]}
    accounts.update_from_directory(dave, claims=claims)
    assert set(dave.teams.values_list("name", flat=True)) == {"Finance", "Friends"}
    accounts.update_from_directory(dave, claims={**claims, "groups": []})
    assert set(dave.teams.values_list("name", flat=True)) == {"Friends"}


def test_the_page_explains_sharing_and_requires_confirmation(bob: User, dave: User, connection: Connection) -> None:
    client = factories.signed_in(bob)
    url = f"/connections/{connection.pk}/shares/add/"
    page = text(client.get(url))
    assert_shows(page, "People with access act as Ada Lovelace", "Read mail")
    assert_answer(client.post(url, {"whom": f"person:{dave.pk}", "level": "use"}), 422, "Confirm that you understand")
    client.post(url, {"whom": f"person:{dave.pk}", "level": "use", "understood": "on", "until": "2028-01-31"})
    assert Share.objects.get().until == datetime(2028, 2, 1, tzinfo=UTC)
    assert "Dave Stranger" in text(client.get(f"/connections/{connection.pk}/"))


def test_the_page_lists_permissions_outside_of_capabilities(bob: User, alice: User) -> None:
    granted = "Mail.Read Contacts.ReadWrite Sites.FullControl.All Unheard-Of.Thing openid profile"
    own = factories.make_connection(owner=bob, granted_scopes=granted)
    page = text(factories.signed_in(bob).get(f"/connections/{own.pk}/shares/add/"))
    assert "Contacts: read and change" in page
    assert_shows(page, "Sites: control fully, wherever the account may", "Unheard of: thing")
    assert "openid" not in page
    robot = factories.make_app_only_connection(owner=alice, granted_scopes="Mail.Read Directory.ReadWrite.All")
    page = text(factories.signed_in(alice).get(f"/connections/{robot.pk}/shares/add/"))
    assert_shows(
        page,
        "People with access can, in the whole tenant Contoso:",
        "Directory: read and change, in the whole organisation",
    )


def test_the_page_says_that_nothing_is_granted_yet(bob: User, alice: User) -> None:
    waiting = factories.make_connection(owner=bob, granted_scopes="", connected_at=None, status="pending")
    Connection.objects.filter(pk=waiting.pk).update(connected_at=None)
    page = text(factories.signed_in(bob).get(f"/connections/{waiting.pk}/shares/add/"))
    assert "No permissions granted yet." in page
    robot = factories.make_app_only_connection(owner=alice, granted_scopes="")
    page = text(factories.signed_in(alice).get(f"/connections/{robot.pk}/shares/add/"))
    assert "The application can access the mailboxes that Exchange allows." in page


def test_ending_a_share_affects_open_browser_sessions_at_once(bob: User, dave: User, connection: Connection) -> None:
    share = give(connection, dave, level="manage")
    client = factories.signed_in(dave)
    assert client.get(f"/connections/{connection.pk}/edit/").status_code == 200
    shares.end_share(share, actor=bob, now=NOW)
    assert client.post(f"/connections/{connection.pk}/edit/", {"name": "Mine now"}).status_code == 404
    assert client.post(f"/connections/{connection.pk}/sign-in/").status_code == 404
