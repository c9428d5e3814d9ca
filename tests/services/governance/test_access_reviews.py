"""Access reviews: starting, answering, reminders, and closing on time, whatever happens in between."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection as database
from django.test.utils import CaptureQueriesContext

from connections.errors import InvalidInput, NotAllowed
from connections.models import (
    AccessReview,
    ApiKey,
    AppRegistration,
    AuditEvent,
    Connection,
    ReviewItem,
    ReviewPlan,
    Share,
    Team,
    TeamMember,
    TokenFetch,
    User,
)
from connections.services.connections import connections
from connections.services.governance import access_review_schedule, access_reviews
from connections.services.governance.access_reviews import Answer, ReviewClosed
from connections.services.people import ownership_transfer
from connections.services.sharing import shares
from tests import factories
from tests.api.api_client import at_once
from tests.records import actions, subjects

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
DUE = datetime(2026, 11, 23, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
Decision = ReviewItem.Decision


def share(connection: Connection, target: User | Team, **more: Any) -> Share:
    key = "team" if isinstance(target, Team) else "person"
    values = {"created_at": NOW - 30 * DAY, "created_by": connection.owner}
    return Share.objects.create(connection=connection, **{key: target}, **(values | more))


def make_team(*members: User) -> Team:
    team = Team.objects.create(name="Finance")
    TeamMember.objects.bulk_create(TeamMember(team=team, user=user) for user in members)
    return team


def start(by: User, **more: Any) -> AccessReview:
    values: dict[str, Any] = {"due_at": DUE, "actor": by, "now": NOW} | more
    return access_reviews.start("Q4", **values)


def answer(
    review: AccessReview, by: User, decision: str, note: str = "", *, now: datetime = NOW
) -> access_reviews.AnswerCounts:
    pks = review.items.values_list("pk", flat=True)
    return access_reviews.answer(review, {pk: Answer(decision, note) for pk in pks}, actor=by, now=now)


def run_to_the_end(review: AccessReview) -> None:
    access_review_schedule.run_due(DUE - DAY)
    access_review_schedule.run_due(DUE)
    review.refresh_from_db()


def test_a_review_records_the_shares_and_their_last_use(
    alice: User, dave: User, una: User, connection: Connection
) -> None:
    team = make_team(dave)
    own, theirs = share(connection, una, level="manage", until=NOW + 90 * DAY), share(connection, team)
    share(connection, dave, ended_at=NOW - DAY)
    share(connection, factories.make_person("eve"), until=NOW - DAY)
    key = ApiKey.objects.create(name="Robot", owner=dave, prefix="abcdefghij", digest="0" * 64)
    for days in (9, 3):
        TokenFetch.objects.create(
            key=key, key_name="Robot", owner_name="dave", connection=connection, connection_name="Invoices",
            minute=NOW - days * DAY,
        )  # fmt: skip

    review = start(alice)
    items = {item.share_id: item for item in review.items.all()}
    assert set(items) == {own.pk, theirs.pk}
    first, second = items[own.pk], items[theirs.pk]
    assert (first.with_name, first.level, first.until) == (str(una) + " <una>", "manage", own.until)
    assert (first.owner_name, first.given_by_name) == ("Bob Member <bob>", "Bob Member <bob>")
    assert (first.last_used_at, second.last_used_at) == (None, NOW - 3 * DAY)
    assert (second.with_name, second.is_team) == ("Finance", True)
    assert subjects("bob@example.org") == ["Action required: access review “Q4”"]
    event = AuditEvent.objects.get(action="access_review.started")
    assert (event.actor, event.changes["shares"]) == (alice, 2)


def test_a_review_can_cover_one_app_registration_or_tenant(alice: User, bob: User, una: User) -> None:
    here = factories.make_connection(owner=bob)
    there = factories.make_connection(
        owner=bob,
        name="Elsewhere",
        app_registration=factories.make_app_registration(
            name="Fabrikam app",
            client_id="f" * 36,
            tenant=factories.make_tenant(name="Fabrikam", directory_id="f.example"),
        ),
    )
    share(here, una)
    share(there, una)
    for scope in ({"app_registration": there.app_registration}, {"tenant": there.app_registration.tenant}):
        review = start(alice, **scope)
        assert [item.connection_name for item in review.items.all()] == ["Elsewhere"]
        assert "Fabrikam" in review.scope_name


def test_only_it_admins_start_a_review_with_a_valid_last_day(alice: User, bob: User, carol: User, una: User) -> None:
    with pytest.raises(InvalidInput, match="There are no shares"):
        start(alice)
    share(factories.make_connection(owner=bob), una)
    for person in (bob, carol):
        with pytest.raises(NotAllowed):
            start(person)
    for due in (NOW, NOW + DAY, NOW + 200 * DAY):
        with pytest.raises(InvalidInput):
            start(alice, due_at=due)
    assert not AccessReview.objects.exists()


def test_starting_takes_few_queries_for_thousands_of_shares(alice: User, bob: User, app: AppRegistration) -> None:
    people = User.objects.bulk_create(User(username=f"p{n}", email=f"p{n}@example.org") for n in range(400))
    for number in range(5):
        connection = factories.make_connection(owner=bob, app_registration=app, name=f"C{number}")
        Share.objects.bulk_create(Share(connection=connection, person=user, created_by=bob) for user in people)
    with CaptureQueriesContext(database) as queries:
        review = start(alice, now=NOW + 3650 * DAY, due_at=NOW + 3680 * DAY)
    assert review.items.count() == 2000
    assert len(queries) < 60


def test_confirmed_shares_stay_and_removed_ones_end_at_once(
    alice: User, bob: User, dave: User, una: User, connection: Connection
) -> None:
    kept, ended = share(connection, una), share(connection, dave)
    review = start(alice)
    pks = dict(review.items.values_list("share", "pk"))
    answers = {pks[kept.pk]: Answer("confirmed", "Needed"), pks[ended.pk]: Answer("removed", "Has changed jobs")}
    counts = access_reviews.answer(review, answers, actor=bob, now=NOW)
    assert counts == access_reviews.AnswerCounts(confirmed=1, removed=1)
    assert (factories.reloaded(kept).ended_at, factories.reloaded(ended).ended_at) == (None, NOW)
    item = review.items.get(pk=pks[ended.pk])
    assert (item.decision, item.decided_by_name, item.note) == ("removed", "Bob Member <bob>", "Has changed jobs")
    assert actions("access_review.share") == ["access_review.share_confirmed", "access_review.share_removed"]
    assert "Q4" in AuditEvent.objects.get(action="connection.unshared").changes["because"]

    assert answer(review, bob, "confirmed", "Needed").passed_over == 2, "the same answer again changes nothing"
    again = shares.share(connection, person=dave, level="use", until=None, actor=bob, now=NOW + DAY)
    run_to_the_end(review)
    assert factories.reloaded(again).ended_at is None, "a new share is not part of this review"


def test_a_confirmation_can_still_become_a_removal(alice: User, bob: User, una: User) -> None:
    new_share = share(factories.make_connection(owner=bob), una)
    review = start(alice)
    answer(review, bob, "confirmed")
    assert answer(review, bob, "removed", now=NOW + DAY).removed == 1
    assert factories.reloaded(new_share).ended_at == NOW + DAY


def test_only_the_owner_answers(alice: User, bob: User, carol: User, dave: User, una: User) -> None:
    share(factories.make_connection(owner=bob), una, level="manage")
    review = start(alice)
    for person in (alice, carol, dave, una):
        assert answer(review, person, "removed").passed_over == 1
    with pytest.raises(InvalidInput):
        answer(review, bob, "expired")
    assert not Share.objects.exclude(ended_at=None).exists()


@pytest.mark.parametrize("owner", ["disabled", "departed", "service account"])
def test_it_admins_answer_for_owners_who_cannot(owner: str, alice: User, bob: User, una: User) -> None:
    user = factories.make_service_account(responsible=bob) if owner == "service account" else bob
    share(factories.make_connection(owner=user), una)
    if owner == "disabled":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    if owner == "departed":
        User.objects.filter(pk=bob.pk).update(left_at=NOW - DAY)
    review = start(alice)
    assert subjects("bob@example.org") == []
    assert subjects("alice@example.org") == ["Action required: access review “Q4”"]
    assert access_reviews.tasks_of(alice) == [(review, 1)]
    assert answer(review, alice, "confirmed").confirmed == 1


@pytest.mark.parametrize("through", ["person", "team", "service account"])
def test_no_it_admin_confirms_own_access_while_another_can(through: str, alice: User, bob: User, una: User) -> None:
    anna = factories.make_person("anna")
    anna.groups.set(alice.groups.all())
    connection = factories.make_connection(owner=bob)
    robot = factories.make_service_account(responsible=alice)
    targets: dict[str, User | Team] = {"person": alice, "team": make_team(alice), "service account": robot}
    share(connection, targets[through])
    share(connection, una)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    review = start(alice)
    assert access_reviews.tasks_of(alice) == [(review, 1)]
    assert answer(review, alice, "confirmed") == access_reviews.AnswerCounts(confirmed=1, passed_over=1)
    assert access_reviews.tasks_of(anna) == [(review, 1)]
    assert answer(review, anna, "confirmed").confirmed == 1
    assert {item.decided_by for item in review.items.all()} == {alice, anna}


@pytest.mark.parametrize("through", ["person", "team"])
def test_an_it_admin_confirms_their_own_access_if_nobody_else_can(through: str, alice: User, bob: User) -> None:
    anna = factories.make_person("anna", is_active=through == "team")
    anna.groups.set(alice.groups.all())
    share(factories.make_connection(owner=bob), alice if through == "person" else make_team(alice, anna))
    User.objects.filter(pk=bob.pk).update(is_active=False)
    review = start(alice)
    assert access_reviews.tasks_of(alice) == [(review, 1)]
    assert answer(review, alice, "confirmed").confirmed == 1


def test_the_responsible_person_is_warned_for_a_service_account(alice: User, bob: User, dave: User) -> None:
    robot = factories.make_service_account(responsible=dave)
    share(factories.make_connection(owner=bob), robot)
    start(alice)
    access_review_schedule.run_due(DUE - DAY)
    (subject,) = subjects("dave@example.org")
    assert subject == f"Access of the service account {robot} may be removed after 22 November 2026 (UTC)"


def test_the_confirmed_level_is_recorded(alice: User, bob: User, una: User, connection: Connection) -> None:
    share(connection, una)
    review = start(alice)
    shares.share(connection, person=una, level="manage", until=None, actor=bob, now=NOW + DAY)
    answer(review, bob, "confirmed")
    item = review.items.get()
    assert (item.level, item.decided_level) == ("use", "manage")


def test_a_new_owner_is_asked_and_answers(
    alice: User, bob: User, dave: User, una: User, connection: Connection
) -> None:
    share(connection, una)
    review = start(alice)
    ownership_transfer.transfer(connection, dave, keep_grant=True, actor=bob, now=NOW + DAY)
    access_review_schedule.run_due(NOW + 2 * DAY)
    assert "Action required: access review “Q4”" in subjects("dave@example.org")
    assert review.items.get().owner == dave
    assert answer(review, bob, "confirmed").passed_over == 1
    assert answer(review, dave, "confirmed").confirmed == 1


@pytest.mark.parametrize("how", ["unshared", "lapsed", "removed"])
def test_the_item_of_a_share_that_ended_otherwise_is_closed(
    alice: User, bob: User, una: User, how: str, connection: Connection
) -> None:
    new_share = share(connection, una, until=NOW + 3 * DAY)
    review = start(alice)
    if how == "unshared":
        shares.end_share(new_share, actor=bob, now=NOW + DAY)
    if how == "removed":
        connections.remove(connection, actor=bob, now=NOW + DAY)
    assert answer(review, bob, "confirmed", now=NOW + 4 * DAY).passed_over == 1
    access_review_schedule.run_due(NOW + 4 * DAY)
    item = review.items.get()
    assert (item.decision, item.ended_at, item.with_name) == ("gone", None, f"{una} <una>")
    assert factories.reloaded(review).closed_at == NOW + 4 * DAY, "nothing is open any more"


def test_a_share_ended_meanwhile_is_gone(alice: User, bob: User, una: User, monkeypatch: pytest.MonkeyPatch) -> None:
    new_share = share(factories.make_connection(owner=bob), una)
    review = start(alice)
    end_for_reason = shares.end_for_reason

    def end_too_late(share: Share, why: str, **more: Any) -> bool:
        end_for_reason(share, "", actor=una, now=NOW)
        return end_for_reason(share, why, **more)

    monkeypatch.setattr(shares, "end_for_reason", end_too_late)
    assert answer(review, bob, "removed").passed_over == 1
    assert not AuditEvent.objects.filter(action="access_review.share_removed").exists()
    access_review_schedule.run_due(NOW)
    assert (review.items.get().decision, review.items.get().ended_at) == ("gone", None)
    assert AuditEvent.objects.get(action="connection.unshared", target_id=str(new_share.connection_id)).actor == una


def test_people_are_warned_and_unanswered_shares_end_on_the_date(
    alice: User, dave: User, una: User, connection: Connection
) -> None:
    team = make_team(dave)
    new_share = share(connection, una)
    share(connection, team)
    review = start(alice)
    access_review_schedule.run_due(NOW + 2 * DAY)
    assert len(subjects("bob@example.org")) == 1
    for _ in range(2):
        access_review_schedule.run_due(review.half_time)
    assert len(subjects("bob@example.org")) == 2
    for _ in range(2):
        access_review_schedule.run_due(DUE - DAY)
    assert len(subjects("bob@example.org")) == 3
    for address in ("una@example.org", "dave@example.org"):
        assert subjects(address) == ["Your access may be removed after 22 November 2026 (UTC)"]
    access_review_schedule.run_due(DUE - timedelta(seconds=1))
    assert not Share.objects.exclude(ended_at=None).exists()

    access_review_schedule.run_due(DUE)
    assert (factories.reloaded(new_share).ended_at, factories.reloaded(review).closed_at) == (DUE, DUE)
    counts = {"open": 0, "confirmed": 0, "removed": 0, "expired": 2, "gone": 0}
    assert dict(access_reviews.count_decisions(review)) == counts
    for event in AuditEvent.objects.filter(action="connection.unshared"):
        assert event.actor is None
        assert event.changes["because"].endswith(": not answered by Bob Member")
    assert subjects("bob@example.org")[-1] == "Access to your connections was removed: Q4"
    assert subjects("alice@example.org") == ["Access review “Q4” is closed"]
    assert AuditEvent.objects.get(action="access_review.closed").changes["expired"] == 2


def test_a_late_run_warns_before_it_ends_anything(alice: User, bob: User, una: User) -> None:
    new_share = share(factories.make_connection(owner=bob), una)
    start(alice)
    for hours in (1, 12):
        access_review_schedule.run_due(DUE + timedelta(hours=hours))
        assert factories.reloaded(new_share).ended_at is None
    access_review_schedule.run_due(DUE + timedelta(hours=13))
    assert factories.reloaded(new_share).ended_at == DUE + timedelta(hours=13)


def test_a_closed_review_never_changes(alice: User, bob: User, una: User, connection: Connection) -> None:
    share(connection, una)
    review = start(alice)
    answer(review, bob, "confirmed")
    run_to_the_end(review)
    frozen = ("connection_name", "owner_name", "with_name", "decision", "decided_by_name", "decided_at", "note")
    before = list(review.items.values(*frozen))
    with pytest.raises(ReviewClosed):
        answer(review, bob, "removed")
    with pytest.raises(ReviewClosed):
        access_reviews.cancel(review, actor=alice, now=DUE + DAY)
    Share.objects.all().delete()
    access_review_schedule.run_due(DUE + DAY)
    connection.delete()
    una.delete()
    bob.delete()
    assert list(review.items.values(*frozen)) == before


def test_a_cancelled_review_ends_nothing(alice: User, bob: User, carol: User, una: User) -> None:
    new_share = share(factories.make_connection(owner=bob), una)
    review = start(alice)
    with pytest.raises(NotAllowed):
        access_reviews.cancel(review, actor=carol, now=NOW + DAY)
    for _ in range(2):
        access_reviews.cancel(review, actor=alice, now=NOW + DAY)
    run_to_the_end(review)
    new_share.refresh_from_db()
    assert (new_share.ended_at, review.closed_at, review.cancelled_by_name) == (None, None, "Alice Admin <alice>")
    assert subjects("bob@example.org")[-1] == "Access review “Q4” was cancelled"
    with pytest.raises(ReviewClosed):
        answer(review, bob, "removed")
    assert actions("access_review") == ["access_review.started", "access_review.cancelled"]


def test_the_next_run_continues_the_last(alice: User, bob: User, una: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_review_schedule, "AT_ONCE", 2)
    for number in range(5):
        share(factories.make_connection(owner=bob, name=f"C{number}"), una)
    review = start(alice)
    access_review_schedule.run_due(DUE - DAY)
    original, calls = shares.end_for_reason, []

    def interrupt(*args: Any, **more: Any) -> bool:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **more)

    monkeypatch.setattr(shares, "end_for_reason", interrupt)
    with pytest.raises(KeyboardInterrupt):
        access_review_schedule.run_due(DUE)
    assert dict(access_reviews.count_decisions(review))["expired"] == 2, "the interrupted batch is rolled back"
    assert Share.objects.filter(ended_at=None).count() == 3
    access_review_schedule.run_due(DUE)
    assert (factories.reloaded(review).closed_at, Share.objects.filter(ended_at=None).count()) == (DUE, 0)
    assert actions("connection.unshared") == ["connection.unshared"] * 5


@pytest.mark.django_db(transaction=True)
def test_simultaneous_runs_end_each_share_once(alice: User, bob: User, una: User) -> None:
    for number in range(6):
        share(factories.make_connection(owner=bob, name=f"C{number}"), una)
    review = start(alice)
    access_review_schedule.run_due(DUE - DAY)
    at_once(*[partial(access_review_schedule.run_due, DUE)] * 3)
    assert actions("connection.unshared") == ["connection.unshared"] * 6
    assert actions("access_review.closed") == ["access_review.closed"]
    assert dict(access_reviews.count_decisions(review))["expired"] == 6
    assert subjects("alice@example.org").count("Access review “Q4” is closed") == 1


def test_the_schedule_starts_one_review_each_quarter(alice: User, bob: User, una: User) -> None:
    share(factories.make_connection(owner=bob), una)
    access_review_schedule.run_due(NOW)
    assert not AccessReview.objects.exists(), "off by default"
    access_reviews.set_schedule(is_on=True, days=21, actor=alice, now=NOW)
    access_review_schedule.run_due(NOW + DAY)
    assert not AccessReview.objects.exists(), "it starts with the next quarter"
    new_year = datetime(2027, 1, 1, 0, 4, tzinfo=UTC)
    for _ in range(2):
        access_review_schedule.run_due(new_year)
    review = AccessReview.objects.get()
    assert (review.name, review.started_by_name) == ("Quarterly review 2027-Q1", "Portal")
    assert review.due_at == datetime(2027, 1, 22, tzinfo=UTC)
    assert subjects("bob@example.org") == ["Action required: access review “Quarterly review 2027-Q1”"]


def test_a_scheduled_review_without_shares_is_closed_at_once(alice: User) -> None:
    access_reviews.set_schedule(is_on=True, days=21, actor=alice, now=NOW)
    access_review_schedule.run_due(datetime(2027, 1, 1, tzinfo=UTC))
    review = AccessReview.objects.get()
    assert (review.items.count(), review.closed_at is not None) == (0, True)


def test_only_it_admins_change_the_schedule(alice: User, carol: User) -> None:
    with pytest.raises(NotAllowed):
        access_reviews.set_schedule(is_on=True, days=21, actor=carol, now=NOW)
    with pytest.raises(InvalidInput):
        access_reviews.set_schedule(is_on=True, days=3, actor=alice, now=NOW)
    for _ in range(2):
        access_reviews.set_schedule(is_on=True, days=21, actor=alice, now=NOW)
    access_reviews.set_schedule(is_on=False, days=21, actor=alice, now=NOW)
    access_review_schedule.run_due(datetime(2027, 1, 1, tzinfo=UTC))
    assert not AccessReview.objects.exists()
    assert actions("access_review.planned") == ["access_review.planned"] * 2
    assert ReviewPlan.objects.count() == 1
