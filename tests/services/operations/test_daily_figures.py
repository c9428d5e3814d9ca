"""Daily figures: equal to what happened, the same however often they are written, complete after downtime, and pruned."""

from datetime import UTC, datetime, timedelta
from typing import Any

from connections import audit
from connections.models import AuditEvent, Connection, DailyFigure, DailyTopKey, DailyUse, Incident, User
from connections.models.audit import AuditAction
from connections.services.api_keys import token_requests
from connections.services.operations import daily_figures
from tests import factories

NOW = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)
TODAY = NOW.date()


def fetch(connection: Connection, key: Any, times: int, at: datetime) -> None:
    request = token_requests.TokenRequest(
        key.pk, key.name, f"{key.owner} <{key.owner.username}>", connection.pk, connection.name, "10.0.0.1"
    )
    token_requests.record([request] * times, now=at)


def figures() -> dict[tuple[str, str], int]:
    return {(str(row.day), row.name): row.value for row in DailyFigure.objects.all()}


def open_incident(at: datetime, closed_at: datetime | None = None, key: str = "app:1") -> None:
    Incident.objects.create(
        kind=Incident.Kind.OUTAGE, key=key, title="Outage", opened_at=at, seen_at=at, closed_at=closed_at
    )


def test_they_equal_what_happened_on_each_day(alice: User, bob: User) -> None:
    connection, other = factories.make_connection(owner=bob), factories.make_connection(owner=bob, name="Other")
    factories.make_connection(owner=bob, name="Dead", status=Connection.Status.RECONNECT_NEEDED)
    one, _ = factories.make_key(bob, name="One", expires_at=NOW + timedelta(days=20))
    two, _ = factories.make_key(alice, name="Two")
    yesterday = NOW - timedelta(days=1)
    fetch(connection, one, 3, NOW)
    fetch(connection, one, 2, NOW - timedelta(hours=1))
    fetch(other, two, 9, NOW)
    fetch(connection, two, 4, yesterday)
    open_incident(yesterday, NOW)
    audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, at=yesterday)
    audit.record(AuditAction.CONNECTION_CHECKED, connection, actor=bob, at=yesterday, outcome=AuditEvent.Outcome.DENIED)
    daily_figures.update(now=NOW)
    stored, today, before = figures(), str(TODAY), str(TODAY - timedelta(days=1))
    assert (stored[today, "token_requests"], stored[before, "token_requests"]) == (14, 4)
    assert (stored[before, "incidents_opened"], stored[today, "incidents_resolved"]) == (1, 1)
    assert (stored[before, "events"], stored[before, "denials"], stored[before, "action:connection.checked"]) == (
        2,
        1,
        2,
    )
    assert (stored[today, "status:active"], stored[today, "status:reconnect_needed"]) == (2, 1)
    assert (before, "status:active") not in stored, "the states of past days are not known"
    assert [stored[today, f"expiring:keys:{days}"] for days in (7, 30, 90)] == [0, 1, 1]
    days = daily_figures.last_days(2, NOW)
    assert daily_figures.use_by_key(connection.pk, days) == {"One": {TODAY: 5}, "Two": {days[0]: 4}}
    assert daily_figures.use_of([connection.pk, other.pk], days) == {TODAY: 14, days[0]: 4}
    assert [(key.key_name, key.requests) for key in daily_figures.top_keys(NOW)] == [("Two", 9), ("One", 5)]


def test_writing_them_again_changes_nothing_but_what_happened_since(bob: User) -> None:
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    fetch(connection, key, 3, NOW)
    daily_figures.update(now=NOW)
    stored, uses = figures(), list(DailyUse.objects.values())
    daily_figures.update(now=NOW)
    assert (figures(), list(DailyUse.objects.values())) == (stored, uses)
    fetch(connection, key, 2, NOW)
    daily_figures.update(now=NOW + timedelta(minutes=1))
    assert figures() == stored | {(str(TODAY), "token_requests"): 5}
    assert DailyUse.objects.get().requests == 5


def test_days_on_which_nothing_ran_are_counted_later(bob: User) -> None:
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    daily_figures.update(now=NOW - timedelta(days=5))
    fetch(connection, key, 1, NOW - timedelta(days=5))  # after the last run of that day
    fetch(connection, key, 7, NOW - timedelta(days=3))
    daily_figures.update(now=NOW)
    requests = daily_figures.read(daily_figures.last_days(6, NOW), [daily_figures.TOKEN_REQUESTS])["token_requests"]
    assert [requests[day] for day in sorted(requests)] == [1, 0, 7, 0, 0, 0]


def test_an_old_portal_counts_a_month_back_and_no_more(bob: User) -> None:
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    for days in (2, 30, 60):
        fetch(connection, key, 1, NOW - timedelta(days=days))
    daily_figures.update(now=NOW)
    assert DailyUse.objects.count() == 2


def test_they_outlive_keys_and_connections_and_are_pruned(bob: User, settings: Any) -> None:
    settings.STATISTICS_DAYS = 30
    connection, (key, _) = factories.make_connection(owner=bob), factories.make_key(bob)
    fetch(connection, key, 1, NOW)
    daily_figures.update(now=NOW)
    key.delete()
    connection.delete()
    daily_figures.update(now=NOW)
    assert DailyUse.objects.get().key_name == "Key of bob"
    daily_figures.update(now=NOW + timedelta(days=31))
    for model in (DailyFigure, DailyUse, DailyTopKey):
        assert not model._default_manager.filter(day__lte=TODAY).exists()


def test_each_sweep_adds_its_refreshes() -> None:
    daily_figures.count_refreshes(renewed=5, failed=0, now=NOW)
    daily_figures.count_refreshes(renewed=2, failed=1, now=NOW)
    daily_figures.update(now=NOW)
    assert {name: value for (_, name), value in figures().items() if "refreshes" in name} == {
        "refreshes": 7,
        "failed_refreshes": 1,
    }


def test_the_number_of_queries_does_not_follow_the_number_of_rows(bob: User, max_queries: Any) -> None:
    daily_figures.update(now=NOW)
    for number in range(20):
        connection = factories.make_connection(owner=bob, name=f"Number {number}")
        key, _ = factories.make_key(bob, name=f"Key {number}")
        fetch(connection, key, 1, NOW)
    with max_queries(30):
        daily_figures.update(now=NOW)
    assert DailyTopKey.objects.filter(day=TODAY).count() == daily_figures.TOP_KEYS
