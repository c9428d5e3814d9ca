"""Pages about access reviews: a reviewer's shares in one form, and a report for auditors."""

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from connections import csv_export
from connections.models import AccessReview, ReviewItem, ReviewPlan, Share, User
from connections.services.governance import access_reviews
from tests import factories
from tests.views.pages import assert_answer, assert_shows


def text(answer: Any) -> str:
    return str(answer.getvalue().decode())


def shared(bob: User, *people: User, name: str = "Invoices") -> list[Share]:
    connection = factories.make_connection(owner=bob, name=name)
    return [Share.objects.create(connection=connection, person=person, created_by=bob) for person in people]


def test_an_admin_starts_a_review_the_owner_finds_at_home(admin: Client, bob: User, member: Client, dave: User) -> None:
    shared(bob, dave)
    assert "Start review" in text(admin.get("/reviews/add/"))
    due = (timezone.now() + timedelta(days=21)).date()
    answer = admin.post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due.isoformat()})
    review = AccessReview.objects.get()
    assert answer["Location"] == f"/reviews/{review.pk}/"
    assert review.last_day.date() == due
    home = text(member.get("/"))
    assert_shows(home, "Access review: Q4", "1 share to confirm or remove", f'href="/reviews/{review.pk}/"')
    assert "Access review: Q4" not in text(admin.get("/"))


@pytest.mark.parametrize("due", ["", "tomorrow", "2020-01-01", "9999-12-31"])
def test_an_invalid_last_day_shows_an_error(admin: Client, bob: User, dave: User, due: str) -> None:
    shared(bob, dave)
    assert_answer(admin.post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due}), 422, "is-invalid")


def test_one_form_saves_the_answers_of_a_page(bob: User, member: Client, dave: User, carol: User) -> None:
    kept, ended = shared(bob, dave, carol)
    review = factories.make_review(kept, ended)
    pks = dict(review.items.values_list("share", "pk"))
    page = text(member.get(f"/reviews/{review.pk}/"))
    assert page.count('type="radio"') == 4
    form = {
        f"answer-{pks[kept.pk]}": "confirmed",
        f"answer-{pks[ended.pk]}": "removed",
        f"note-{pks[ended.pk]}": "=Left  the\x00 team",
        "answer-99999999999999999": "removed",
        "answer-x": "removed",
    }
    page = text(member.post(f"/reviews/{review.pk}/", form, follow=True))
    assert "Saved: 1 confirmed, 1 removed." in page
    assert ReviewItem.objects.get(pk=pks[ended.pk]).note == "=Left the team"
    assert factories.reloaded(ended).ended_at is not None
    assert "No changes were made" in text(member.post(f"/reviews/{review.pk}/", {}, follow=True))


def test_owners_see_only_their_own_shares(admin: Client, bob: User, member: Client, dave: User) -> None:
    own, theirs = shared(bob, dave)[0], shared(dave, bob, name="Secret plans")[0]
    review = factories.make_review(own, theirs)
    assert "Secret plans" not in text(member.get(f"/reviews/{review.pk}/"))
    foreign = review.items.get(share=theirs).pk
    member.post(f"/reviews/{review.pk}/", {f"answer-{foreign}": "removed"})
    assert factories.reloaded(theirs).ended_at is None
    assert "No shares in this review are assigned to you" in text(admin.get(f"/reviews/{review.pk}/"))
    assert admin.post(f"/reviews/{review.pk}/", {}).status_code == 403


def test_shares_that_changed_or_ended_meanwhile_are_marked(bob: User, member: Client, dave: User, carol: User) -> None:
    changed, ended = shared(bob, dave, carol)
    review = factories.make_review(changed, ended)
    Share.objects.filter(pk=changed.pk).update(level="manage")
    Share.objects.filter(pk=ended.pk).update(ended_at=timezone.now())
    page = text(member.get(f"/reviews/{review.pk}/"))
    assert_shows(page, "now: can manage", "Already removed or expired. No answer needed.")
    assert page.count('type="radio"') == 2
    assert "1 share to confirm" in text(member.get("/"))


def test_the_number_of_queries_does_not_grow_with_the_page(admin: Client, bob: User, member: Client) -> None:
    def counted(path: str, client: Client) -> int:
        client.get(path)
        with CaptureQueriesContext(database) as queries:
            assert client.get(path).status_code == 200
        return len(queries)

    people = [factories.make_person(f"p{number}") for number in range(60)]
    shares = shared(bob, *people)
    few, many = factories.make_review(*shares[:2]), factories.make_review(*shares)
    for page, client in (("", member), ("", admin), ("report/", admin)):
        # If there is more than one page, counting takes one more query.
        assert counted(f"/reviews/{many.pk}/{page}", client) <= counted(f"/reviews/{few.pk}/{page}", client) + 1
    for _ in range(20):
        factories.make_review()
    assert "Review Q4" in text(admin.get("/reviews/"))
    assert "50 of 60" in text(member.get(f"/reviews/{many.pk}/"))


def test_the_report_outlives_people_and_connections(auditor: Client, bob: User, dave: User) -> None:
    kept, ended = *shared(bob, dave), *shared(bob, dave, name="=cmd|' /C calc'!A0")
    review = factories.make_review(kept, ended)
    pks = dict(review.items.values_list("share", "pk"))
    answers = {
        pks[kept.pk]: access_reviews.Answer("confirmed", "@needed"),
        pks[ended.pk]: access_reviews.Answer("removed"),
    }
    access_reviews.answer(review, answers, actor=bob, now=timezone.now())
    AccessReview.objects.update(closed_at=timezone.now())
    kept.connection.delete()
    ended.connection.delete()
    bob.delete()
    dave.delete()

    page = text(auditor.get(f"/reviews/{review.pk}/report/"))
    assert_shows(page, "Bob Member", "Dave Stranger", "Invoices", "@needed", "Confirmed", "Removed", "Closed")
    answer = auditor.post(f"/reviews/{review.pk}/report.csv")
    assert answer["Content-Disposition"] == f'attachment; filename="access-review-{review.pk}.csv"'
    rows = list(csv.DictReader(io.StringIO(text(answer).removeprefix("\ufeff"))))
    assert {row["Decision"] for row in rows} == {"confirmed", "removed"}
    by_name = {row["Connection"]: row for row in rows}
    assert by_name["'=cmd|' /C calc'!A0"]["Ended at"]
    assert by_name["Invoices"]["Note"] == "'@needed"
    assert by_name["Invoices"]["Decided by"] == "Bob Member <bob>"


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1"])
def test_no_cell_is_a_formula(value: str) -> None:
    assert csv_export.cell(value) == f"'{value}"
    assert csv_export.cell(None) == ""
    assert csv_export.cell(7) == "7"


def test_cancelling_explains_the_consequences_first(admin: Client, bob: User, member: Client, dave: User) -> None:
    review = factories.make_review(*shared(bob, dave))
    assert "Unanswered shares stay as they are" in text(admin.get(f"/reviews/{review.pk}/cancel/"))
    assert "was cancelled" in text(admin.post(f"/reviews/{review.pk}/cancel/", follow=True))
    page = text(member.get(f"/reviews/{review.pk}/"))
    assert "Cancelled by Alice Admin" in page
    assert 'type="radio"' not in page
    assert "Access review:" not in text(member.get("/"))


def test_the_quarterly_schedule_is_set_on_the_page(admin: Client, member: Client, auditor: Client) -> None:
    assert "Start a review of all shares every quarter" in text(admin.get("/reviews/"))
    assert "A review will start every quarter." in text(
        admin.post("/reviews/plan/", {"is_on": "on", "days": "14"}, follow=True)
    )
    plan = ReviewPlan.objects.get()
    assert (plan.is_on, plan.days) == (True, 14)
    assert admin.post("/reviews/plan/", {"is_on": "on", "days": "1"}).status_code == 422
    assert "starts automatically every quarter" in text(auditor.get("/reviews/"))
    assert "every quarter" not in text(member.get("/reviews/"))
    assert "Scheduled reviews are turned off." in text(admin.post("/reviews/plan/", {"days": "14"}, follow=True))
