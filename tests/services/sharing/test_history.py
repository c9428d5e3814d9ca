"""What the services record in the access history."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from connections.errors import InUse
from connections.models import AccessPeriod, ApiKey, AppRegistration, AuditEvent, Connection, Share, User
from connections.services.connections import connections
from connections.services.people import accounts, service_accounts
from connections.services.sharing import history, history_check, shares, teams
from tests import factories
from tests.environment import ROOT
from tests.views.pages import SignIn

NOW = timezone.now()
HOUR = timedelta(hours=1)
Kind = AccessPeriod.Kind


def at(hours: float) -> datetime:
    return NOW + hours * HOUR


def periods(**filters: Any) -> list[tuple[Any, ...]]:
    """Return each period's kind, level, start and end in hours, and who started and ended it."""
    return [
        (
            period.kind,
            period.level,
            (period.started_at - NOW) / HOUR,
            (period.ended_at - NOW) / HOUR if period.ended_at else None,
            period.started_by_name.partition(" ")[0],
            period.ended_by_name.partition(" ")[0],
        )
        for period in AccessPeriod.objects.filter(**filters).order_by("started_at", "pk")
    ]


def test_an_ownership_begins_when_the_connection_is_created(bob: User, app: AppRegistration) -> None:
    connection = connections.start_delegated(app, name="Invoices", chosen=["mail.read"], actor=bob)
    period = AccessPeriod.objects.get()
    assert (period.kind, period.connection_id, period.person_id) == (Kind.OWNER, connection.pk, bob.pk)
    assert (period.connection_name, period.person_name) == ("Invoices", "Bob Member <bob>")
    assert period.started_at == connection.created_at == AuditEvent.objects.get(action="connection.created").at


def test_changing_a_share_begins_a_new_period(bob: User, dave: User, connection: Connection) -> None:
    given: dict[str, Any] = {"person": dave, "until": None, "actor": bob}
    shares.share(connection, level="use", now=at(1), **given)
    shares.share(connection, level="use", now=at(2), **given)
    share = shares.share(connection, level="manage", now=at(3), **given)
    shares.end_share(share, actor=dave, now=at(4))
    shares.end_share(share, actor=dave, now=at(5))
    assert periods() == [("person", "use", 1, 3, "Bob", "Bob"), ("person", "manage", 3, 4, "Bob", "Dave")]


def test_an_expired_share_is_ended_by_the_portal_once_on_its_date(
    bob: User, dave: User, connection: Connection
) -> None:
    shares.share(connection, person=dave, level="use", until=at(2), actor=bob, now=at(0))
    assert shares.end_expired(now=at(2) - timedelta(microseconds=1)) == 0
    assert shares.end_expired(now=at(3)) == 1
    assert shares.end_expired(now=at(4)) == 0
    assert Share.objects.get().ended_at == at(2)
    assert periods() == [("person", "use", 0, 2, "Bob", "Portal")]
    event = AuditEvent.objects.get(action="connection.share_expired")
    assert (event.actor_name, event.target_id, event.owner_id) == ("Portal", str(connection.pk), bob.pk)
    assert event.changes["with_id"] == dave.pk


def test_ending_an_expired_share_records_that_it_expired(bob: User, dave: User, connection: Connection) -> None:
    share = shares.share(connection, person=dave, level="use", until=at(2), actor=bob, now=at(0))
    shares.end_share(share, actor=bob, now=at(3))
    assert periods() == [("person", "use", 0, 2, "Bob", "Portal")]
    assert not AuditEvent.objects.filter(action="connection.unshared").exists()


def test_an_extended_share_does_not_expire_and_can_be_ended(bob: User, dave: User, connection: Connection) -> None:
    stale = shares.share(connection, person=dave, level="use", until=at(2), actor=bob, now=at(0))
    shares.share(connection, person=dave, level="use", until=at(9), actor=bob, now=at(1))
    assert shares.end_expired(now=at(3)) == 0
    shares.end_share(stale, actor=bob, now=at(4))
    assert periods() == [("person", "use", 0, 1, "Bob", "Bob"), ("person", "use", 1, 4, "Bob", "Bob")]


def test_removing_a_team_ends_its_memberships_and_shares(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    team = teams.add("Finance", actor=alice)
    for _ in range(2):
        teams.add_member(team, dave, actor=alice, now=at(1))
    teams.remove_member(team, dave, actor=alice, now=at(2))
    teams.remove_member(team, dave, actor=alice, now=at(3))
    teams.add_member(team, dave, actor=None, now=at(4))
    shares.share(connection, team=team, level="use", until=None, actor=bob, now=at(5))
    teams.change(team, name="Finance and tax", entra_group="", actor=alice)
    teams.remove(team, actor=alice, now=at(6))
    assert periods(kind=Kind.MEMBER) == [
        ("member", "", 1, 2, "Alice", "Alice"),
        ("member", "", 4, 6, "Portal", "Alice"),
    ]
    assert periods(kind=Kind.TEAM) == [("team", "use", 5, 6, "Bob", "Alice")]
    assert AccessPeriod.objects.filter(ended_at=at(6), team_name="Finance and tax").count() == 1
    assert not Share.objects.exists()


def test_removing_a_connection_ends_its_periods_under_its_last_name(bob: User, dave: User) -> None:
    connection = connections.start_delegated(factories.make_app_registration(), name="Invoices", chosen=[], actor=bob)
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=at(1))
    connections.change(connection, name="Bills", chosen=[], extra_scopes=[], actor=bob)
    connections.remove(connection, actor=bob, now=at(2))
    rows = AccessPeriod.objects.values_list("kind", "connection_name", "ended_at", "ended_by_id")
    assert sorted(rows) == [("owner", "Bills", at(2), bob.pk), ("person", "Bills", at(2), bob.pk)]


def test_a_new_owner_ends_the_previous_ownership(bob: User, dave: User, connection: Connection) -> None:
    history.ownership_began(connection, actor=bob, now=at(0))
    connection.owner = dave
    history.ownership_began(connection, actor=bob, now=at(1))
    assert periods() == [("owner", "", 0, 1, "Bob", "Bob"), ("owner", "", 1, None, "Bob", "")]


def test_a_disabled_account_is_one_period_until_it_is_enabled(alice: User, dave: User) -> None:
    for hours, active in ((0, True), (1, False), (2, False), (3, True), (4, True), (5, False)):
        dave.is_active = active
        history.account_changed(dave, actor=alice, now=at(hours))
    assert periods() == [("disabled", "", 1, 3, "Alice", "Alice"), ("disabled", "", 5, None, "Alice", "")]


def test_removing_a_person_ends_their_periods_and_is_recorded(
    alice: User, bob: User, dave: User, connection: Connection
) -> None:
    teams.add_member(teams.add("Finance", actor=alice), dave, actor=alice, now=at(0))
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=at(0))
    ApiKey.objects.create(name="Robot", owner=dave, prefix="a" * 10, digest="0" * 64, scopes=[])
    pk = dave.pk
    accounts.remove(dave, actor=alice, now=at(1))
    assert not User.objects.filter(pk=pk).exists()
    assert periods(person_id=pk, ended_at=at(1)) == [
        ("member", "", 0, 1, "Alice", "Alice"),
        ("person", "use", 0, 1, "Bob", "Alice"),
    ]
    assert periods(person_id=pk, ended_at=None) == [("disabled", "", 1, None, "Alice", "")]
    actions = AuditEvent.objects.filter(at=at(1)).order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["connection.unshared", "team.member_removed", "account.removed"]


def test_a_person_who_owns_connections_cannot_be_removed(alice: User, bob: User) -> None:
    factories.make_connection(owner=bob)
    with pytest.raises(InUse, match="Invoices"):
        accounts.remove(bob, actor=alice, now=NOW)
    assert not AccessPeriod.objects.exists()


def test_the_admin_site_removes_people_by_the_service(alice: User, bob: User, dave: User, signed_in: SignIn) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    connection = factories.make_connection(owner=bob)
    shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW)
    admin = signed_in(alice)
    chosen = {"action": "delete_selected", "_selected_action": [dave.pk], "post": "yes"}
    admin.post(reverse("admin:connections_user_changelist"), chosen)
    assert User.objects.filter(pk=dave.pk).exists()

    admin.post(reverse("admin:connections_user_delete", args=[dave.pk]), {"post": "yes"})
    assert not User.objects.filter(pk=dave.pk).exists()
    assert AccessPeriod.objects.get(kind=Kind.PERSON).ended_by_name == "Alice Admin <alice>"
    assert AuditEvent.objects.filter(action="account.removed").count() == 1


def test_disabling_and_enabling_an_account_is_recorded(alice: User, dave: User) -> None:
    for hours in (1, 2):
        accounts.disable_person(dave, actor=alice, now=at(hours))
    for hours in (3, 4):
        accounts.enable_person(dave, actor=alice, now=at(hours))
    assert periods() == [("disabled", "", 1, 3, "Alice", "Alice")]


def test_the_admin_site_cannot_change_who_may_sign_in(alice: User, dave: User, signed_in: SignIn) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    typed = {"username": "dave", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    response = signed_in(alice).post(reverse("admin:connections_user_change", args=[dave.pk]), typed)
    assert response.status_code == 302
    assert User.objects.get(pk=dave.pk).is_active
    assert not AccessPeriod.objects.exists()


def test_disabling_and_enabling_a_service_account_is_recorded(alice: User) -> None:
    robot = service_accounts.create(
        name="Robot", purpose="Bills", responsible=alice, admin=False, auditor=False, actor=alice, now=at(0)
    )
    service_accounts.disable(robot, actor=alice, now=at(1))
    service_accounts.enable(robot, actor=alice, now=at(2))
    service_accounts.remove(robot, actor=alice, now=at(3))
    assert periods() == [("disabled", "", 1, 2, "Alice", "Alice"), ("disabled", "", 3, None, "Alice", "")]
    assert history_check.differences() == []


WRITERS = {
    r"Share\.objects\.(bulk_)?create\(|Share\.objects\.filter\([^)]*\)\.(update|delete)\(": {"shares.py"},
    r"TeamMember\.objects\.(get_or_create|create|filter\([^)]*\)\.delete)\(|\.members\.(add|remove|set)\(": {
        "teams.py"
    },
    r"update\([^)]*is_active=": {"accounts.py", "service_accounts.py"},
    r"\bteam\.delete\(|\buser\.delete\(|\bconnection\.delete\(": {"teams.py", "accounts.py", "connections.py"},
    r"AccessPeriod\.objects\.(bulk_)?create\(": {"history.py"},
}


@pytest.mark.parametrize("pattern", WRITERS)
def test_only_services_that_record_it_change_access(pattern: str) -> None:
    modules = [path for path in (ROOT / "connections").rglob("*.py") if "migrations" not in path.parts]
    assert {path.name for path in modules if re.search(pattern, path.read_text())} == WRITERS[pattern]
