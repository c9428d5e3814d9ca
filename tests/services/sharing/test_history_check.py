"""The check that compares the access history with the audit trail."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from connections import audit
from connections.models import AccessPeriod, AuditEvent, Connection, User
from connections.models.audit import AuditAction
from connections.services.connections import connections
from connections.services.sharing import history, history_check, shares, teams
from tests import factories

NOW = timezone.now()
HOUR = timedelta(hours=1)


@pytest.fixture
def story(alice: User, bob: User, dave: User) -> Connection:
    """Share a connection with a team and a person, and disable the account of a team member."""
    connection = connections.start_delegated(
        factories.make_app_registration(), name="Invoices", chosen=[], actor=bob, now=NOW
    )
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice, now=NOW + HOUR)
    shares.share(connection, team=team, level="use", until=None, actor=bob, now=NOW + HOUR)
    share = shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW + HOUR)
    shares.end_share(share, actor=dave, now=NOW + 2 * HOUR)
    dave.is_active = False
    history.account_changed(dave, actor=alice, now=NOW + 3 * HOUR)
    audit.record(AuditAction.ACCOUNT_DISABLED, dave, actor=alice, at=NOW + 3 * HOUR)
    return connection


def test_there_is_no_difference_if_both_agree(story: Connection, capsys: Any) -> None:
    assert AccessPeriod.objects.count() == 5
    call_command("check_access_history")
    assert "matches the audit trail" in capsys.readouterr().out


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
        ("member", {"started_by_name": "Bob Member <bob>"}, "started by Bob Member"),
        ("disabled", {"started_at": NOW + 4 * HOUR}, "Only the access history"),
    ],
)
def test_tampering_is_detected(story: Connection, capsys: Any, kind: str, values: dict[str, Any], says: str) -> None:
    assert AccessPeriod.objects.filter(kind=kind).update(**values) == 1
    with pytest.raises(CommandError, match="difference"):
        call_command("check_access_history")
    assert says in capsys.readouterr().out


def test_missing_and_additional_periods_are_detected(story: Connection) -> None:
    AccessPeriod.objects.get(kind="team").delete()
    AccessPeriod.objects.create(kind="owner", connection_id=77, person_id=78, started_at=NOW)
    missing, additional = sorted(history_check.differences(), key=lambda line: "history (" in line)
    assert missing.startswith("Only the audit trail (event ")
    assert additional.startswith("Only the access history (period ")
    assert "connection 77, person 78" in additional


def test_early_short_events_are_understood(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The first versions of these events had no "with_type" and no share id."""
    record = audit.record

    def record_as_before(*args: Any, changes: dict[str, Any] | None = None, **rest: Any) -> AuditEvent:
        facts = {name: value for name, value in (changes or {}).items() if name not in ("with_type", "share_id")}
        return record(*args, changes=facts, **rest)

    monkeypatch.setattr(audit, "record", record_as_before)
    request.getfixturevalue("story")
    assert AuditEvent.objects.filter(action="connection.shared").count() == 2
    assert history_check.differences() == []


def test_a_denied_action_changes_nothing(story: Connection, bob: User) -> None:
    audit.record(AuditAction.CONNECTION_REMOVED, story, actor=bob, outcome="denied")
    assert history_check.differences() == []
