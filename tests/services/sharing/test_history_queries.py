"""Queries on the access history: who could use what at one moment, or during a day."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext

from connections.models import AccessPeriod, User
from connections.services.sharing import history_queries
from connections.services.sharing.history_queries import Window
from tests import factories

DAY = date(2026, 3, 10)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)
LATER = MIDNIGHT + timedelta(days=400)
Kind = AccessPeriod.Kind
X, Y, DAVE, ERIN, FINANCE = 10, 11, 20, 21, 30


def at(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def add_period(kind: str, start: float, end: float | None = None, **parts: Any) -> AccessPeriod:
    """Create a period. Times are in hours after midnight."""
    names = {"connection_id": "connection_name", "person_id": "person_name", "team_id": "team_name"}
    all_names = {X: "Invoices", Y: "Calendar", DAVE: "Dave Stranger <dave>", ERIN: "Erin <erin>", FINANCE: "Finance"}
    named = {names[name]: all_names.get(pk, str(pk)) for name, pk in parts.items() if name in names}
    if kind in ("person", "team"):
        parts = {"share_id": AccessPeriod.objects.count() + 1, "level": "use"} | parts
    ended = None if end is None else at(end)
    return AccessPeriod.objects.create(kind=kind, started_at=at(start), ended_at=ended, **named, **parts)


def spans(accesses: list[history_queries.Access]) -> dict[int, list[tuple[float, float]]]:
    """Return each person's intervals, in hours after midnight."""
    hours = timedelta(hours=1)
    return {
        access.person_id: [((a - MIDNIGHT) / hours, (b - MIDNIGHT) / hours) for a, b in access.stretches]
        for access in accesses
    }


def on_the_day(connection_id: int = X) -> dict[int, list[tuple[float, float]]]:
    return spans(history_queries.who_could_use(connection_id, Window.day(DAY, now=LATER)))


def test_an_answer_about_a_day_contains_the_intervals() -> None:
    add_period("owner", -100, 6, connection_id=X, person_id=DAVE)
    add_period("person", 9, 11, connection_id=X, person_id=DAVE)
    add_period("person", 10, None, connection_id=X, person_id=ERIN, until=at(20))
    add_period("person", -9, 0, connection_id=X, person_id=40)
    add_period("person", 24, 30, connection_id=X, person_id=41)
    add_period("person", 5, 5, connection_id=X, person_id=42)
    assert on_the_day() == {DAVE: [(0, 6), (9, 11)], ERIN: [(10, 20)]}


def test_a_period_includes_its_start_and_excludes_its_end() -> None:
    add_period("person", 9, 11, connection_id=X, person_id=DAVE)
    tick = timedelta(microseconds=1)
    for moment, could in ((at(9) - tick, False), (at(9), True), (at(11) - tick, True), (at(11), False)):
        assert bool(history_queries.who_could_use(X, Window.moment(moment))) is could
        assert bool(history_queries.what_could_be_used(DAVE, Window.moment(moment))) is could


def test_a_share_with_a_team_gives_access_only_to_enabled_members() -> None:
    add_period("team", 2, 20, connection_id=X, team_id=FINANCE)
    add_period("member", 0, 10, team_id=FINANCE, person_id=DAVE)
    add_period("member", 15, None, team_id=FINANCE, person_id=DAVE)
    add_period("member", 0, 1, team_id=FINANCE, person_id=ERIN)
    add_period("disabled", 4, 5, person_id=DAVE)
    add_period("disabled", 18, None, person_id=DAVE)
    assert on_the_day() == {DAVE: [(2, 4), (5, 10), (15, 18)]}
    (access,) = history_queries.who_could_use(X, Window.day(DAY, now=LATER))
    assert [path.membership is not None and path.grant.team_name for path in access.paths] == ["Finance", "Finance"]


def test_the_highest_level_is_the_answer_and_every_path_is_listed() -> None:
    add_period("person", 0, None, connection_id=X, person_id=DAVE)
    add_period("team", 0, None, connection_id=X, team_id=FINANCE, level="manage")
    add_period("member", 0, None, team_id=FINANCE, person_id=DAVE)
    add_period("owner", 12, None, connection_id=X, person_id=DAVE)
    add_period("person", 0, None, connection_id=Y, person_id=DAVE)
    first, second = history_queries.what_could_be_used(DAVE, Window.day(DAY, now=LATER))
    assert (first.connection_id, first.level, second.connection_id, second.level) == (Y, "use", X, "owner")
    assert [path.grant.kind for path in second.paths] == ["owner", "team", "person"]
    assert second.stretches == ((at(0), at(24)),)


def test_an_answer_about_today_ends_now() -> None:
    add_period("owner", 0, None, connection_id=X, person_id=DAVE)
    assert spans(history_queries.who_could_use(X, Window.day(DAY, now=at(15)))) == {DAVE: [(0, 15)]}


def test_deleted_connections_and_people_are_found(alice: User, bob: User) -> None:
    existing = factories.make_connection(owner=bob, name="Invoices of today")
    add_period("owner", 0, None, connection_id=existing.pk, person_id=bob.pk)
    add_period("owner", 0, 1, connection_id=X, person_id=DAVE)
    add_period("owner", 1, 2, connection_id=X, person_id=ERIN)
    add_period("person", 1, 2, connection_id=X, person_id=bob.pk)
    add_period("disabled", 2, None, person_id=DAVE)
    named = history_queries.find_connections("invoices")
    assert [(candidate.pk, candidate.detail, candidate.is_deleted) for candidate in named] == [
        (existing.pk, "of bob", False),
        (X, "of erin", True),
    ]
    assert history_queries.get_connection(X) == named[1]
    assert history_queries.get_connection(existing.pk) == named[0]
    assert history_queries.get_connection(999) is None
    (person,) = history_queries.find_people("dave")
    assert (person.name, person.detail, person.is_deleted) == ("Dave Stranger", "dave", True)
    assert [candidate.pk for candidate in history_queries.find_people("Bob Member")] == [bob.pk]
    assert history_queries.get_person(DAVE) == person
    assert history_queries.get_person(alice.pk) is not None
    assert history_queries.get_person(999) is None


@pytest.mark.parametrize("search", [history_queries.find_connections, history_queries.find_people])
@pytest.mark.parametrize("text", ["%", "_", "'; --", "<", "é", "x" * 500])
def test_odd_searches_find_nothing(search: Callable[[str], Any], text: str) -> None:
    add_period("owner", 0, 1, connection_id=X, person_id=ERIN)
    assert search(text) == [] or text == "<"


def test_a_long_history_needs_no_more_queries_and_uses_the_indexes() -> None:
    add_period("team", 0, None, connection_id=X, team_id=FINANCE)
    add_period("member", 0, None, team_id=FINANCE, person_id=DAVE)
    window = Window.day(DAY, now=LATER)

    def count_queries() -> int:
        with CaptureQueriesContext(database) as queries:
            history_queries.who_could_use(X, window)
            history_queries.what_could_be_used(DAVE, window)
        return len(queries)

    assert count_queries() == 5
    AccessPeriod.objects.bulk_create(
        AccessPeriod(
            kind=kind,
            started_at=at(-number),
            ended_at=at(-number + 5) if number % 100 else None,
            connection_id=X if kind == "person" else None,
            share_id=10_000 + number if kind == "person" else None,
            level="use" if kind == "person" else "",
            team_id=FINANCE if kind == "member" else None,
            person_id=DAVE if kind == "person" and number % 2 else 1000 + number,
            person_name=f"Person {number} <person{number}>",
        )
        for number in range(5000)
        for kind in ("person", "member")
    )
    assert count_queries() == 5
    assert len(history_queries.who_could_use(X, window)) > 50
    plan = AccessPeriod.objects.filter(connection_id=X, started_at__lt=at(1)).order_by().explain()
    assert "access_by_connection" in plan or database.vendor != "sqlite"
