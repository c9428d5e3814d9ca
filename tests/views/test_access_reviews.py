"""Pages of access reviews: one's shares on one form, and a report that an auditor can take along."""

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
from tests.views.pages import SignIn, assert_shows


def text(answer: Any) -> str:
    return str(answer.getvalue().decode())


def shared(bob: User, *people: User, name: str = "Invoices") -> list[Share]:
    connection = factories.make_connection(owner=bob, name=name)
    return [Share.objects.create(connection=connection, person=person, created_by=bob) for person in people]


def test_an_admin_starts_a_review_that_the_owner_finds(admin: Client, member: Client, bob: User, dave: User) -> None:
    shared(bob, dave)
    assert "Start and ask the owners" in text(admin.get("/reviews/add/"))
    due = (timezone.now() + timedelta(days=21)).date()
    answer = admin.post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due.isoformat()})
    review = AccessReview.objects.get()
    assert answer["Location"] == f"/reviews/{review.pk}/"
    assert review.last_day.date() == due
    home = text(member.get("/"))
    assert_shows(home, "Access review: Q4", "1 share to confirm or remove", f'href="/reviews/{review.pk}/"')
    assert "Access review: Q4" not in text(admin.get("/"))


@pytest.mark.parametrize("due", ["", "tomorrow", "2020-01-01", "9999-12-31"])
def test_an_invalid_last_day_is_refused(admin: Client, bob: User, dave: User, due: str) -> None:
    shared(bob, dave)
    answer = admin.post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due})
    assert answer.status_code == 422
    assert "is-invalid" in text(answer)


def test_one_form_takes_the_answers_of_a_page(member: Client, bob: User, dave: User, carol: User) -> None:
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
    assert "Saved: 1 confirmed, 1 ended at once." in page
    assert ReviewItem.objects.get(pk=pks[ended.pk]).note == "=Left the team"
    ended.refresh_from_db()
    assert ended.ended_at is not None
    assert "Nothing was changed" in text(member.post(f"/reviews/{review.pk}/", {}, follow=True))


def test_only_ones_own_shares_are_on_the_form(admin: Client, member: Client, bob: User, dave: User) -> None:
    mine, theirs = shared(bob, dave)[0], shared(dave, bob, name="Secret plans")[0]
    review = factories.make_review(mine, theirs)
    assert "Secret plans" not in text(member.get(f"/reviews/{review.pk}/"))
    foreign = review.items.get(share=theirs).pk
    member.post(f"/reviews/{review.pk}/", {f"answer-{foreign}": "removed"})
    theirs.refresh_from_db()
    assert theirs.ended_at is None
    page = text(admin.get(f"/reviews/{review.pk}/"))
    assert "Nothing in this review is yours to answer" in page
    assert admin.post(f"/reviews/{review.pk}/", {}).status_code == 403


def test_what_was_changed_or_has_ended_meanwhile_says_so(member: Client, bob: User, dave: User, carol: User) -> None:
    changed, ended = shared(bob, dave, carol)
    review = factories.make_review(changed, ended)
    Share.objects.filter(pk=changed.pk).update(level="manage")
    Share.objects.filter(pk=ended.pk).update(ended_at=timezone.now())
    page = text(member.get(f"/reviews/{review.pk}/"))
    assert_shows(page, "now: manage", "Has ended; nothing to answer")
    assert page.count('type="radio"') == 2
    assert "1 share to confirm" in text(member.get("/"))


def test_pages_take_the_same_number_of_queries_however_long(
    signed_in: SignIn, admin: Client, alice: User, member: Client, bob: User
) -> None:
    def counted(path: str, who: User) -> int:
        client = signed_in(who)
        client.get(path)
        with CaptureQueriesContext(database) as queries:
            assert client.get(path).status_code == 200
        return len(queries)

    people = [factories.make_person(f"p{number}") for number in range(60)]
    shares = shared(bob, *people)
    few, many = factories.make_review(*shares[:2]), factories.make_review(*shares)
    for page, who in (("", bob), ("", alice), ("report/", alice)):
        # More than a page costs the count.
        assert counted(f"/reviews/{many.pk}/{page}", who) <= counted(f"/reviews/{few.pk}/{page}", who) + 1
    for _ in range(20):
        factories.make_review()
    assert "Review Q4" in text(admin.get("/reviews/"))
    assert "50 of 60" in text(member.get(f"/reviews/{many.pk}/"))


def test_the_report_survives_people_and_connections(auditor: Client, bob: User, dave: User) -> None:
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
    answer = auditor.get(f"/reviews/{review.pk}/report.csv")
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


def test_cancelling_says_what_it_means_first(admin: Client, member: Client, bob: User, dave: User) -> None:
    review = factories.make_review(*shared(bob, dave))
    assert "No share ends because of it" in text(admin.get(f"/reviews/{review.pk}/cancel/"))
    assert "is cancelled" in text(admin.post(f"/reviews/{review.pk}/cancel/", follow=True))
    page = text(member.get(f"/reviews/{review.pk}/"))
    assert "Alice Admin cancelled it" in page
    assert 'type="radio"' not in page
    assert "Access review:" not in text(member.get("/"))


def test_the_plan_is_a_setting_of_the_page(admin: Client, member: Client, auditor: Client) -> None:
    assert "Start a review of all shares at the beginning of every quarter" in text(admin.get("/reviews/"))
    assert "The next quarter starts with a review." in text(
        admin.post("/reviews/plan/", {"is_on": "on", "days": "14"}, follow=True)
    )
    plan = ReviewPlan.objects.get()
    assert (plan.is_on, plan.days) == (True, 14)
    assert admin.post("/reviews/plan/", {"is_on": "on", "days": "1"}).status_code == 422
    assert "starts by itself every quarter" in text(auditor.get("/reviews/"))
    assert "every quarter" not in text(member.get("/reviews/"))
    assert "No review starts by itself." in text(admin.post("/reviews/plan/", {"days": "14"}, follow=True))
