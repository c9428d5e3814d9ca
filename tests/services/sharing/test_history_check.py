"""The check that compares the access history with the audit trail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections import audit
from connections.models import AccessPeriod, AuditEvent, Connection, User
from connections.services.connections import connections
from connections.services.people import accounts
from connections.services.sharing import history, history_check, shares, teams
from tests import factories

pytestmark = pytest.mark.django_db

NOW = timezone.now()
HOUR = timedelta(hours=1)


@pytest.fixture
def story(alice: User, bob: User, dave: User) -> Connection:
    """A connection, shared with a team and a person, with a member and a disabled account."""
    made = connections.start_delegated(
        factories.make_app_registration(), name="Invoices", chosen=[], actor=bob, now=NOW
    )
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice, now=NOW + HOUR)
    shares.share(made, team=team, level="use", until=None, actor=bob, now=NOW + HOUR)
    found = shares.share(made, person=dave, level="use", until=None, actor=bob, now=NOW + HOUR)
    shares.end_share(found, actor=dave, now=NOW + 2 * HOUR)
    dave.is_active = False
    history.account_changed(dave, actor=alice, now=NOW + 3 * HOUR)
    audit.record("account.disabled", dave, actor=alice, at=NOW + 3 * HOUR)
    return made


def test_two_that_agree_differ_in_nothing(story: Connection, capsys: Any) -> None:
    assert AccessPeriod.objects.count() == 5
    call_command("check_access_history")
    assert "the same story" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("person", {"level": "manage"}, "says “Shared with the person to use"),
        ("person", {"ended_at": NOW + 2 * HOUR + timedelta(seconds=1)}, "says “Shared with the person"),
        ("person", {"ended_at": None}, "to now"),
        ("person", {"person_id": 999_999}, "Only the access history"),
        ("team", {"ended_at": NOW + 2 * HOUR}, "says “Shared with a team"),
        ("team", {"until": NOW + 2 * HOUR}, "planned until"),
        ("owner", {"started_at": NOW - 9 * HOUR}, "Only the audit trail"),
        ("member", {"started_by_name": "Bob Member <bob>"}, "begun by Bob Member"),
        ("disabled", {"started_at": NOW + 4 * HOUR}, "Only the access history"),
    ],
)
def test_a_history_that_was_touched_is_found_and_named(
    story: Connection, capsys: Any, kind: str, values: dict[str, Any], says: str
) -> None:
    assert AccessPeriod.objects.filter(kind=kind).update(**values) == 1
    with pytest.raises(CommandError, match="difference"):
        call_command("check_access_history")
    assert says in capsys.readouterr().out


def test_a_lost_period_and_a_made_up_one_are_found(story: Connection) -> None:
    AccessPeriod.objects.get(kind="team").delete()
    AccessPeriod.objects.create(kind="owner", connection_id=77, person_id=78, started_at=NOW)
    lost, made_up = sorted(history_check.differences(), key=lambda line: "history (" in line)
    assert lost.startswith("Only the audit trail (event ")
    assert made_up.startswith("Only the access history (period ")
    assert "connection 77, person 78" in made_up


def test_what_ended_before_the_history_was_kept_need_not_be_in_it(story: Connection) -> None:
    AccessPeriod.objects.get(kind="person").delete()
    assert history_check.differences() != []
    assert history_check.differences(since=NOW + 2 * HOUR) == []
    assert history_check.differences(since=NOW + 2 * HOUR - timedelta(seconds=1)) != []


def test_who_was_removed_before_the_history_was_kept_need_not_be_in_it(story: Connection, alice: User) -> None:
    """Nothing was left of them that it could have been filled from."""
    gone = factories.make_person("gone")
    teams.add_member(teams.add("Sales", actor=alice), gone, actor=alice, now=NOW + HOUR)
    accounts.remove(gone, actor=alice, now=NOW + 2 * HOUR)
    AccessPeriod.objects.filter(person_name__startswith="Gone").delete()
    assert history_check.differences(since=NOW + 2 * HOUR) == []
    (line,) = history_check.differences(since=NOW + 2 * HOUR - timedelta(seconds=1))[:1]
    assert "Only the audit trail" in line


def test_rows_from_before_may_be_a_little_off_their_events_and_no_more(story: Connection) -> None:
    AccessPeriod.objects.filter(kind="member").update(started_at=NOW + HOUR + timedelta(seconds=4))
    assert history_check.differences() != []
    assert history_check.differences(since=NOW + 2 * HOUR) == []
    AccessPeriod.objects.filter(kind="member").update(started_at=NOW + HOUR + timedelta(minutes=1))
    assert history_check.differences(since=NOW + 2 * HOUR) != []


def test_events_from_before_the_history_was_kept_are_understood(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """They do not say whether somebody is a team or a person but in words, and know no id of the share."""
    record = audit.record

    def as_before(*what: Any, changes: dict[str, Any] | None = None, **rest: Any) -> AuditEvent:
        told = {name: value for name, value in (changes or {}).items() if name not in ("with_type", "share_id")}
        return record(*what, changes=told, **rest)

    monkeypatch.setattr(audit, "record", as_before)
    request.getfixturevalue("story")
    assert AuditEvent.objects.filter(action="connection.shared").count() == 2
    assert history_check.differences() == []


def test_what_was_refused_or_failed_changed_nothing(story: Connection, bob: User) -> None:
    audit.record("connection.removed", story, actor=bob, outcome="denied")
    assert history_check.differences() == []
