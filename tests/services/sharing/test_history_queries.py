"""Who could use what at a moment, or on a day."""

from __future__ import annotations

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

pytestmark = pytest.mark.django_db

DAY = date(2026, 3, 10)
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)
LATER = MIDNIGHT + timedelta(days=400)
Kind = AccessPeriod.Kind
X, Y, DAVE, ERIN, FINANCE = 10, 11, 20, 21, 30


def at(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def put(kind: str, start: float, end: float | None = None, **parts: Any) -> AccessPeriod:
    """A period; times in hours after midnight."""
    names = {"connection_id": "connection_name", "person_id": "person_name", "team_id": "team_name"}
    called = {X: "Invoices", Y: "Calendar", DAVE: "Dave Stranger <dave>", ERIN: "Erin <erin>", FINANCE: "Finance"}
    named = {names[name]: called.get(pk, str(pk)) for name, pk in parts.items() if name in names}
    if kind in ("person", "team"):
        parts = {"share_id": AccessPeriod.objects.count() + 1, "level": "use"} | parts
    ended = None if end is None else at(end)
    return AccessPeriod.objects.create(kind=kind, started_at=at(start), ended_at=ended, **named, **parts)


def spans(accesses: list[history_queries.Access]) -> dict[int, list[tuple[float, float]]]:
    """Per person: from and to, in hours after midnight."""
    hours = timedelta(hours=1)
    return {
        access.person_id: [((a - MIDNIGHT) / hours, (b - MIDNIGHT) / hours) for a, b in access.stretches]
        for access in accesses
    }


def on_the_day(connection_id: int = X) -> dict[int, list[tuple[float, float]]]:
    return spans(history_queries.who_could_use(connection_id, Window.day(DAY, now=LATER)))


def test_a_day_is_any_time_of_it_and_says_from_when_to_when() -> None:
    put("owner", -100, 6, connection_id=X, person_id=DAVE)
    put("person", 9, 11, connection_id=X, person_id=DAVE)
    put("person", 10, None, connection_id=X, person_id=ERIN, until=at(20))
    put("person", -9, 0, connection_id=X, person_id=40)
    put("person", 24, 30, connection_id=X, person_id=41)
    put("person", 5, 5, connection_id=X, person_id=42)
    assert on_the_day() == {DAVE: [(0, 6), (9, 11)], ERIN: [(10, 20)]}


def test_a_moment_counts_the_beginning_and_not_the_end() -> None:
    put("person", 9, 11, connection_id=X, person_id=DAVE)
    tick = timedelta(microseconds=1)
    for moment, could in ((at(9) - tick, False), (at(9), True), (at(11) - tick, True), (at(11), False)):
        assert bool(history_queries.who_could_use(X, Window.moment(moment))) is could
        assert bool(history_queries.what_could_be_used(DAVE, Window.moment(moment))) is could


def test_a_teams_share_counts_only_while_one_is_a_member_and_enabled() -> None:
    put("team", 2, 20, connection_id=X, team_id=FINANCE)
    put("member", 0, 10, team_id=FINANCE, person_id=DAVE)
    put("member", 15, None, team_id=FINANCE, person_id=DAVE)
    put("member", 0, 1, team_id=FINANCE, person_id=ERIN)
    put("disabled", 4, 5, person_id=DAVE)
    put("disabled", 18, None, person_id=DAVE)
    assert on_the_day() == {DAVE: [(2, 4), (5, 10), (15, 18)]}
    (found,) = history_queries.who_could_use(X, Window.day(DAY, now=LATER))
    assert [way.membership is not None and way.grant.team_name for way in found.paths] == ["Finance", "Finance"]


def test_the_strongest_level_is_the_answer_and_every_way_is_named() -> None:
    put("person", 0, None, connection_id=X, person_id=DAVE)
    put("team", 0, None, connection_id=X, team_id=FINANCE, level="manage")
    put("member", 0, None, team_id=FINANCE, person_id=DAVE)
    put("owner", 12, None, connection_id=X, person_id=DAVE)
    put("person", 0, None, connection_id=Y, person_id=DAVE)
    first, second = history_queries.what_could_be_used(DAVE, Window.day(DAY, now=LATER))
    assert (first.connection_id, first.level, second.connection_id, second.level) == (Y, "use", X, "owner")
    assert [way.grant.kind for way in second.paths] == ["owner", "team", "person"]
    assert second.stretches == ((at(0), at(24)),)


def test_today_is_told_until_now_and_nothing_of_it_after() -> None:
    put("owner", 0, None, connection_id=X, person_id=DAVE)
    now = Window.day(DAY, now=at(15))
    assert spans(history_queries.who_could_use(X, now)) == {DAVE: [(0, 15)]}


def test_everything_is_found_of_what_has_been_deleted(alice: User, bob: User) -> None:
    there = factories.make_connection(owner=bob, name="Invoices of today")
    put("owner", 0, None, connection_id=there.pk, person_id=bob.pk)
    put("owner", 0, 1, connection_id=X, person_id=DAVE)
    put("owner", 1, 2, connection_id=X, person_id=ERIN)
    put("person", 1, 2, connection_id=X, person_id=bob.pk)
    put("disabled", 2, None, person_id=DAVE)
    named = history_queries.find_connections("invoices")
    assert [(one.pk, one.detail, one.is_deleted) for one in named] == [
        (there.pk, "of bob", False),
        (X, "of erin", True),
    ]
    assert history_queries.get_connection(X) == named[1]
    assert history_queries.get_connection(there.pk) == named[0]
    assert history_queries.get_connection(999) is None
    assert [
        (find_person.name, find_person.detail, find_person.is_deleted)
        for find_person in history_queries.find_people("dave")
    ] == [("Dave Stranger", "dave", True)]
    assert [find_person.pk for find_person in history_queries.find_people("Bob Member")] == [bob.pk]
    assert history_queries.get_person(DAVE) == history_queries.find_people("dave")[0]
    assert history_queries.get_person(alice.pk) is not None
    assert history_queries.get_person(999) is None


@pytest.mark.parametrize("ask", [history_queries.find_connections, history_queries.find_people])
@pytest.mark.parametrize("text", ["%", "_", "'; --", "<", "é", "x" * 500])
def test_odd_searches_find_nothing_and_break_nothing(ask: Callable[[str], Any], text: str) -> None:
    put("owner", 0, 1, connection_id=X, person_id=ERIN)
    found = ask(text)
    assert found == [] or text == "<"


def test_a_long_history_costs_no_more_queries_and_its_indexes_are_used() -> None:
    put("team", 0, None, connection_id=X, team_id=FINANCE)
    put("member", 0, None, team_id=FINANCE, person_id=DAVE)
    window = Window.day(DAY, now=LATER)
    few = count(lambda: (history_queries.who_could_use(X, window), history_queries.what_could_be_used(DAVE, window)))
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
    many = count(lambda: (history_queries.who_could_use(X, window), history_queries.what_could_be_used(DAVE, window)))
    assert few == many == 5
    assert len(history_queries.who_could_use(X, window)) > 50
    plan = AccessPeriod.objects.filter(connection_id=X, started_at__lt=at(1)).order_by().explain()
    assert "access_by_connection" in plan or database.vendor != "sqlite"


def count(ask: Callable[[], Any]) -> int:
    with CaptureQueriesContext(database) as queries:
        ask()
    return len(queries)
