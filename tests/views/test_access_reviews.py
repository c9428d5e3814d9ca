"""Pages about access reviews: a reviewer's shares in one form, and a report for auditors."""

import csv
import io
from collections.abc import Callable
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

pytestmark = pytest.mark.django_db

SignIn = Callable[[User], Client]


def text(answer: Any) -> str:
    return str(answer.getvalue().decode())


def shared(bob: User, *people: User, name: str = "Invoices") -> list[Share]:
    connection = factories.make_connection(owner=bob, name=name)
    return [Share.objects.create(connection=connection, person=person, created_by=bob) for person in people]


def test_an_admin_starts_a_review_and_the_owner_finds_it_at_home(
    signed_in: SignIn, alice: User, bob: User, dave: User
) -> None:
    shared(bob, dave)
    client = signed_in(alice)
    assert "Start and ask the owners" in text(client.get("/reviews/add/"))
    due = (timezone.now() + timedelta(days=21)).date()
    answer = client.post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due.isoformat()})
    review = AccessReview.objects.get()
    assert answer["Location"] == f"/reviews/{review.pk}/"
    assert review.last_day.date() == due
    home = text(signed_in(bob).get("/"))
    assert "Access review: Q4" in home
    assert "1 share to confirm or remove" in home
    assert f'href="/reviews/{review.pk}/"' in home
    assert "Access review: Q4" not in text(client.get("/"))


@pytest.mark.parametrize("due", ["", "tomorrow", "2020-01-01", "9999-12-31"])
def test_an_invalid_last_day_shows_an_error(signed_in: SignIn, alice: User, bob: User, dave: User, due: str) -> None:
    shared(bob, dave)
    answer = signed_in(alice).post("/reviews/add/", {"name": "Q4", "covers": "all", "due": due})
    assert answer.status_code == 422
    assert "is-invalid" in text(answer)


def test_one_form_saves_the_answers_of_a_page(signed_in: SignIn, bob: User, dave: User, carol: User) -> None:
    kept, ended = shared(bob, dave, carol)
    review = factories.make_review(kept, ended)
    pks = dict(review.items.values_list("share", "pk"))
    client = signed_in(bob)
    page = text(client.get(f"/reviews/{review.pk}/"))
    assert page.count('type="radio"') == 4
    form = {
        f"answer-{pks[kept.pk]}": "confirmed",
        f"answer-{pks[ended.pk]}": "removed",
        f"note-{pks[ended.pk]}": "=Left  the\x00 team",
        "answer-99999999999999999": "removed",
        "answer-x": "removed",
    }
    page = text(client.post(f"/reviews/{review.pk}/", form, follow=True))
    assert "Saved: 1 confirmed, 1 ended at once." in page
    assert ReviewItem.objects.get(pk=pks[ended.pk]).note == "=Left the team"
    ended.refresh_from_db()
    assert ended.ended_at is not None
    assert "Nothing was changed" in text(client.post(f"/reviews/{review.pk}/", {}, follow=True))


def test_owners_see_only_their_own_shares(signed_in: SignIn, alice: User, bob: User, dave: User) -> None:
    mine, theirs = shared(bob, dave)[0], shared(dave, bob, name="Secret plans")[0]
    review = factories.make_review(mine, theirs)
    assert "Secret plans" not in text(signed_in(bob).get(f"/reviews/{review.pk}/"))
    foreign = review.items.get(share=theirs).pk
    signed_in(bob).post(f"/reviews/{review.pk}/", {f"answer-{foreign}": "removed"})
    theirs.refresh_from_db()
    assert theirs.ended_at is None
    page = text(signed_in(alice).get(f"/reviews/{review.pk}/"))
    assert "Nothing in this review is yours to answer" in page
    assert signed_in(alice).post(f"/reviews/{review.pk}/", {}).status_code == 403


def test_shares_that_changed_or_ended_meanwhile_are_marked(
    signed_in: SignIn, bob: User, dave: User, carol: User
) -> None:
    changed, ended = shared(bob, dave, carol)
    review = factories.make_review(changed, ended)
    Share.objects.filter(pk=changed.pk).update(level="manage")
    Share.objects.filter(pk=ended.pk).update(ended_at=timezone.now())
    page = text(signed_in(bob).get(f"/reviews/{review.pk}/"))
    assert "now: manage" in page
    assert "Has ended; nothing to answer" in page
    assert page.count('type="radio"') == 2
    assert "1 share to confirm" in text(signed_in(bob).get("/"))


def test_the_number_of_queries_does_not_grow_with_the_page(signed_in: SignIn, alice: User, bob: User) -> None:
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
        # If there is more than one page, counting takes one more query.
        assert counted(f"/reviews/{many.pk}/{page}", who) <= counted(f"/reviews/{few.pk}/{page}", who) + 1
    for _ in range(20):
        factories.make_review()
    assert "Review Q4" in text(signed_in(alice).get("/reviews/"))
    assert "50 of 60" in text(signed_in(bob).get(f"/reviews/{many.pk}/"))


def test_the_report_is_complete_after_people_and_connections_were_deleted(
    signed_in: SignIn, carol: User, bob: User, dave: User
) -> None:
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

    client = signed_in(carol)
    page = text(client.get(f"/reviews/{review.pk}/report/"))
    for expected in ("Bob Member", "Dave Stranger", "Invoices", "@needed", "Confirmed", "Removed", "Closed"):
        assert expected in page
    answer = client.get(f"/reviews/{review.pk}/report.csv")
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


def test_cancelling_explains_the_consequences_first(signed_in: SignIn, alice: User, bob: User, dave: User) -> None:
    review = factories.make_review(*shared(bob, dave))
    client = signed_in(alice)
    assert "No share ends because of it" in text(client.get(f"/reviews/{review.pk}/cancel/"))
    assert "is cancelled" in text(client.post(f"/reviews/{review.pk}/cancel/", follow=True))
    page = text(signed_in(bob).get(f"/reviews/{review.pk}/"))
    assert "Alice Admin cancelled it" in page
    assert 'type="radio"' not in page
    assert "Access review:" not in text(signed_in(bob).get("/"))


def test_the_quarterly_schedule_is_set_on_the_page(signed_in: SignIn, alice: User, bob: User, carol: User) -> None:
    client = signed_in(alice)
    assert "Start a review of all shares at the beginning of every quarter" in text(client.get("/reviews/"))
    assert "The next quarter starts with a review." in text(
        client.post("/reviews/plan/", {"is_on": "on", "days": "14"}, follow=True)
    )
    plan = ReviewPlan.objects.get()
    assert (plan.is_on, plan.days) == (True, 14)
    assert client.post("/reviews/plan/", {"is_on": "on", "days": "1"}).status_code == 422
    assert "starts by itself every quarter" in text(signed_in(carol).get("/reviews/"))
    assert "every quarter" not in text(signed_in(bob).get("/reviews/"))
    assert "No review starts by itself." in text(client.post("/reviews/plan/", {"days": "14"}, follow=True))
