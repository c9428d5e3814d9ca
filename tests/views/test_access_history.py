"""Pages that show who could use what, and when."""

import csv
import io
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections.models import AccessPeriod, AppRegistration, AuditEvent, Connection, User
from connections.services.connections import connections
from connections.services.people import accounts
from connections.services.sharing import shares, teams
from tests import factories
from tests.views.pages import assert_shows

PAGE = "/audit/access/"
EXPORT = "/audit/access/export/"
# Noon of a past day, so that every hour of that day can be queried.
NOON = (timezone.now() - timedelta(days=3)).replace(hour=12, minute=0, second=0, microsecond=0)
DAY = NOON.date().isoformat()
HOUR = timedelta(hours=1)


@pytest.fixture
def story(alice: User, bob: User, dave: User) -> Connection:
    """Bob owns it from 10:00; Dave may use it from 12:00 to 14:00 and, through his team, manage it from 13:00."""
    connection = connections.start_delegated(
        factories.make_app_registration(), name="Invoices", chosen=[], actor=bob, now=NOON - 2 * HOUR
    )
    share = shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOON)
    shares.end_share(share, actor=alice, now=NOON + 2 * HOUR)
    team = teams.add("Finance", actor=alice)
    teams.add_member(team, dave, actor=alice, now=NOON)
    shares.share(connection, team=team, level="manage", until=NOON + 900 * HOUR, actor=bob, now=NOON + HOUR)
    return connection


def text(client: Client, status: int = 200, **query: Any) -> str:
    answer = client.get(PAGE, query)
    assert answer.status_code == status
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def test_it_lists_everybody_with_access_on_a_day_with_times_and_grants(story: Connection, auditor: Client) -> None:
    page = text(auditor, connection=story.pk, date=DAY)
    assert f"on {DAY}, 00:00 to 24:00 UTC" in page
    assert re.search(r"Bob Member bob Owner Ownership 10:00:00 – 24:00:00 by Bob Member", page)
    assert re.search(r"Dave Stranger dave Can manage Shared with team Finance member since .{16}, added by Alice", page)
    assert re.search(r"13:00:00 – 24:00:00 by Bob Member since .{16}; expires", page)
    assert re.search(r"Dave Stranger, also Can use Shared with this person 12:00:00 – 14:00:00 by Bob Member", page)
    assert_shows(page, "by Alice Admin", "IT admins can view and manage all connections")


@pytest.mark.parametrize(
    ("time", "level"),
    [("11:59:59", None), ("12:00", "Can use Shared"), ("13:30:00", "Can manage"), ("14:00", "Can manage")],
)
def test_a_time_is_that_moment(story: Connection, dave: User, auditor: Client, time: str, level: str | None) -> None:
    page = text(auditor, person=dave.pk, date=DAY, time=time)
    assert f"at {DAY} {(time + ':00')[:8]} UTC" in page
    assert (level or "This person had no access at that time.") in page
    assert ("dave Can " in text(auditor, connection=story.pk, date=DAY, time=time)) is bool(level)


def test_deleted_rows_are_found_by_name(story: Connection, alice: User, bob: User, dave: User, auditor: Client) -> None:
    pk, dave_pk = story.pk, dave.pk
    connections.remove(story, actor=bob, now=NOON + 30 * HOUR)
    accounts.remove(dave, actor=alice, now=NOON + 31 * HOUR)
    answer = auditor.get(PAGE, {"find": "connection", "q": "voic", "date": DAY})
    assert answer["Location"] == f"{PAGE}?connection={pk}&date={DAY}"
    assert_shows(text(auditor, connection=pk, date=DAY), "Access to Invoices (deleted)", "Dave Stranger (deleted)")
    answer = auditor.get(PAGE, {"find": "person", "q": "dave", "date": DAY, "time": "13:00"})
    assert answer["Location"] == f"{PAGE}?person={dave_pk}&date={DAY}&time=13%3A00%3A00"
    page = text(auditor, person=dave_pk, date=DAY)
    assert_shows(page, "Access of Dave Stranger (deleted)", "Invoices (deleted)")
    assert "No one had access at that time." in text(auditor, connection=pk)


def test_ambiguous_names_are_offered_and_unknown_names_reported(
    bob: User, auditor: Client, dave: User, app: AppRegistration
) -> None:
    for owner in (bob, dave):
        connections.start_delegated(app, name="Mail", chosen=[], actor=owner)
    page = text(auditor, find="connection", q="mail")
    assert_shows(page, "Select a connection", "of bob", "of dave")
    assert "No results found" in text(auditor, find="person", q="zebra")
    assert "Search for a connection or person" in text(auditor)
    assert "This ID doesn't exist" in text(auditor, status=404, connection=987_654)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"connection": 1, "date": "2999-01-01"}, "The date is in the future"),
        ({"connection": 1, "date": "31.3.2026x"}, "Enter the date as"),
        ({"connection": 1, "time": "25:00"}, "Enter the time in"),
        ({"connection": "9" * 40}, "less than or equal to"),
        ({"connection": "-1"}, "greater than or equal to"),
        ({"person": "1; drop"}, "Enter a whole number"),
        ({"q": "zebra\x00"}, "Null characters are not allowed"),
    ],
)
def test_invalid_questions_show_an_error(auditor: Client, query: dict[str, Any], says: str) -> None:
    assert says in text(auditor, **query)


def test_auditors_export_the_answer_and_the_export_is_recorded(
    story: Connection, admin: Client, bob: User, carol: User, auditor: Client
) -> None:
    User.objects.filter(pk=bob.pk).update(first_name="=cmd()")
    story.refresh_from_db()
    AccessPeriod.objects.filter(kind="owner").update(person_name="=cmd() <bob>")
    answer = auditor.post(EXPORT, {"connection": story.pk, "date": DAY})
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == f'attachment; filename="access-connection-{story.pk}-{DAY}.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [(row["person"], row["level"], row["from_utc"][11:], row["to_utc"][11:]) for row in rows] == [
        ("'=cmd() <bob>", "owner", "10:00:00", "00:00:00"),
        ("Dave Stranger <dave>", "manage", "13:00:00", "00:00:00"),
        ("Dave Stranger <dave>", "use", "12:00:00", "14:00:00"),
    ]
    assert rows[1]["team"] == "Finance"
    assert rows[1]["added_by"] == rows[2]["ended_by"] == "Alice Admin <alice>"
    event = AuditEvent.objects.get(action="audit.exported")
    assert (event.actor, event.target_name) == (carol, "Audit trail")
    assert event.changes == {"question": f"Access to Invoices on {DAY} UTC", "connection_id": story.pk, "rows": 3}
    assert admin.post(EXPORT, {"connection": story.pk}).status_code == 403
    assert "Export as CSV" not in admin.get(PAGE, {"connection": story.pk}).content.decode()


def test_an_export_about_nothing_is_refused_and_not_recorded(auditor: Client) -> None:
    for parameters in ({}, {"connection": 987_654}, {"q": "x"}, {"connection": 1, "date": "2999-01-01"}):
        assert auditor.post(EXPORT, parameters).status_code == 400
    assert not AuditEvent.objects.filter(action="audit.exported").exists()


def test_a_connections_page_links_to_its_access_history_for_auditors(
    story: Connection, member: Client, admin: Client, auditor: Client
) -> None:
    link = f'href="{PAGE}?connection={story.pk}"'
    for client, shown in ((member, False), (admin, True), (auditor, True)):
        assert (link in client.get(f"/connections/{story.pk}/").content.decode()) is shown


def test_ten_thousand_periods_cost_no_more_queries_and_long_answers_are_cut(
    story: Connection, dave: User, auditor: Client
) -> None:

    def queries(**query: Any) -> int:
        with CaptureQueriesContext(database) as seen:
            assert auditor.get(PAGE, {**query, "date": DAY}).status_code == 200
        return len(seen)

    few = queries(connection=story.pk), queries(person=dave.pk)
    AccessPeriod.objects.bulk_create(
        AccessPeriod(
            kind="person",
            connection_id=story.pk if number % 2 else number + 10_000,
            connection_name="Invoices",
            person_id=number + 10_000 if number % 2 else dave.pk,
            person_name=f"Person {number} <person{number}>",
            share_id=number + 10_000,
            level="use",
            started_at=NOON,
            ended_at=NOON + HOUR,
        )
        for number in range(10_000)
    )
    assert (queries(connection=story.pk), queries(person=dave.pk)) == few
    assert "Showing the first 200 of 5002" in text(auditor, connection=story.pk, date=DAY)
