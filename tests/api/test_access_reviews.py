"""Starting, answering, cancelling and exporting access reviews."""

import csv
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from connections.models import AccessReview, AuditEvent, Connection, ReviewItem, Share, Team, User
from tests import factories
from tests.api.api_client import NOT_ALLOWED, NOT_FOUND, Program, problem, values, wrong_fields

Decision = ReviewItem.Decision


@pytest.fixture
def shares(connection: Connection, bob: User, dave: User) -> list[Share]:
    """Share bob's connection with dave and with a team."""
    team = Team.objects.create(name="Finance")
    return [
        Share.objects.create(connection=connection, created_by=bob, **recipient)
        for recipient in ({"person": dave}, {"team": team})
    ]


def in_days(days: int) -> str:
    return (timezone.now() + timedelta(days=days)).date().isoformat()


def decisions(*answers: tuple[ReviewItem, str], note: str = "") -> dict[str, Any]:
    return {"answers": [{"item_id": item.pk, "decision": decision, "note": note} for item, decision in answers]}


def test_a_review_is_started_read_and_cancelled(alice: User, bob: User, shares: list[Share]) -> None:
    program, body = Program(alice), {"name": "Q4", "due": in_days(21)}
    created = program.post("reviews", body, idempotency_key="once")
    assert created.status_code == 201
    assert program.post("reviews", body, idempotency_key="once").json() == created.json()
    review = AccessReview.objects.get()
    assert (review.last_day.date().isoformat(), review.scope_name) == (in_days(21), "All shares")
    path = created["Location"].removeprefix("/api/v1/")
    assert program.get(path).json() == created.json()
    assert (created.json()["state"], created.json()["figures"]["open"]) == ("running", 2)
    assert created.json()["to_answer"] == 0
    seen = Program(bob).get(path).json()
    assert (seen["figures"], seen["to_answer"]) == (None, 2)
    for _ in range(2):
        over = program.post(f"{path}/cancel").json()
        assert (over["state"], over["cancelled_by"]) == ("cancelled", "Alice Admin <alice>")
    assert AuditEvent.objects.filter(action="access_review.cancelled").count() == 1
    item = review.items.first()
    assert item is not None
    late = Program(bob).post(f"{path}/answers", decisions((item, "removed")))
    assert problem(late) == (409, "review_is_over")
    assert Share.objects.active().count() == 2


def test_a_review_can_cover_one_app_or_tenant(alice: User, connection: Connection, shares: list[Share]) -> None:
    program, app = Program(alice), connection.app_registration
    body = {"name": "Q4", "due": in_days(21)}
    assert app.name in program.post("reviews", body | {"app_registration_id": app.pk}).json()["covers"]
    assert program.post("reviews", body | {"tenant_id": app.tenant_id}).json()["covers"] == f"Tenant {app.tenant.name}"
    both = body | {"tenant_id": app.tenant_id, "app_registration_id": app.pk}
    assert wrong_fields(program.post("reviews", both)) == {"tenant_id"}
    assert program.post("reviews", body | {"tenant_id": 10**9}).status_code == 404
    empty = factories.make_tenant(name="Fabrikam", directory_id="fabrikam.example", tid="")
    refused = program.post("reviews", body | {"tenant_id": empty.pk})
    assert (problem(refused), "There are no shares" in refused.json()["detail"]) == ((422, "invalid_input"), True)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"due": "9999-12-31"}, "due"),
        ({"due": "2001-01-01"}, "due"),
        ({"due": "soon"}, "due"),
        ({"due": 1900000000}, "due"),
        ({"name": ""}, "name"),
        ({"covers": "all"}, "covers"),
        ({"tenant_id": "1"}, "tenant_id"),
    ],
)
def test_an_invalid_review_is_refused(change: dict[str, Any], field: str, alice: User, shares: list[Share]) -> None:
    answer = Program(alice).post("reviews", {"name": "Q4", "due": in_days(21)} | change)
    assert wrong_fields(answer) == {field}
    assert not AccessReview.objects.exists()


def test_only_it_admins_start_and_cancel(alice: User, bob: User, carol: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    for person in (bob, carol):
        program = Program(person)
        assert problem(program.post("reviews", {"name": "Q", "due": in_days(9)})) == NOT_ALLOWED
        assert problem(program.post(f"reviews/{review.pk}/cancel")) == NOT_ALLOWED
    closed = factories.make_review(closed_at=timezone.now())
    assert problem(Program(alice).post(f"reviews/{closed.pk}/cancel")) == (409, "review_is_over")
    assert factories.reloaded(review).is_running


def test_the_owner_confirms_one_share_and_ends_another(bob: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    kept, ended = review.items.order_by("pk")
    path, program = f"reviews/{review.pk}/answers", Program(bob)
    body = decisions((kept, "confirmed"), (ended, "removed"), note="Looked  through")
    assert program.post(path, body).json() == {"confirmed": 1, "removed": 1, "passed_over": 0}
    assert program.post(path, body).json() == {"confirmed": 0, "removed": 0, "passed_over": 2}
    items_by_id = {item["id"]: item for item in program.get(f"reviews/{review.pk}/items").json()["items"]}
    assert [items_by_id[item.pk]["decision"] for item in (kept, ended)] == ["confirmed", "removed"]
    assert [items_by_id[item.pk]["can_answer"] for item in (kept, ended)] == [True, False]
    assert items_by_id[kept.pk]["note"] == "Looked through"
    assert list(Share.objects.active()) == [shares[0]]
    assert program.get(f"reviews/{review.pk}").json()["to_answer"] == 0


def test_only_owners_answer_reviews(alice: User, bob: User, carol: User, dave: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    other = Share.objects.create(
        connection=factories.make_connection(owner=dave, name="Dave's"), person=bob, created_by=dave
    )
    theirs = factories.make_review(other)
    own = review.items.order_by("pk")[0]
    foreign = theirs.items.get()
    for person in (alice, carol):
        assert problem(Program(person).post(f"reviews/{review.pk}/answers", decisions((own, "removed")))) == NOT_ALLOWED
    program = Program(dave)
    assert problem(program.post(f"reviews/{review.pk}/answers", decisions((own, "removed")))) == NOT_FOUND
    passed = program.post(f"reviews/{theirs.pk}/answers", decisions((own, "removed"))).json()
    assert passed == {"confirmed": 0, "removed": 0, "passed_over": 1}
    narrowed = Program(dave, only=[other.connection])
    assert problem(narrowed.post(f"reviews/{theirs.pk}/answers", decisions((foreign, "removed")))) == NOT_ALLOWED
    assert not ReviewItem.objects.exclude(decision=Decision.OPEN).exists()


def test_invalid_answers_are_refused(bob: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    item = review.items.order_by("pk")[0]
    path, program = f"reviews/{review.pk}/answers", Program(bob)
    assert wrong_fields(program.post(path, {})) == {"answers"}
    assert wrong_fields(program.post(path, {"answers": []})) == {"answers"}
    assert wrong_fields(program.post(path, decisions((item, "expired")))) == {"answers.0.decision"}
    assert wrong_fields(program.post(path, decisions((item, "confirmed"), note="x" * 501))) == {"answers.0.note"}
    assert wrong_fields(program.post(path, decisions((item, "confirmed"), note="\x00"))) == {"answers.0.note"}
    assert wrong_fields(program.post(path, decisions((item, "confirmed"), (item, "removed")))) == {"answers"}
    many = {"answers": [{"item_id": number, "decision": "removed"} for number in range(1, 202)]}
    assert wrong_fields(program.post(path, many)) == {"answers"}
    assert not ReviewItem.objects.exclude(decision=Decision.OPEN).exists()


def test_people_see_only_their_reviews(alice: User, bob: User, carol: User, dave: User, shares: list[Share]) -> None:
    other = Share.objects.create(
        connection=factories.make_connection(owner=alice, name="A"), person=bob, created_by=alice
    )
    review = factories.make_review(other, *shares)

    def seen(program: Program, **query: Any) -> list[tuple[str, bool]]:
        items = program.get(f"reviews/{review.pk}/items", **query).json()["items"]
        return [(item["connection_name"], item["can_answer"]) for item in items]

    everything = [("A", False), ("Invoices", False), ("Invoices", False)]
    assert seen(Program(carol)) == everything
    assert seen(Program(alice)) == [("A", True), *everything[1:]]
    assert seen(Program(alice), mine="true") == [("A", True)]
    assert seen(Program(bob)) == [("Invoices", True), ("Invoices", True)]
    assert Program(dave).get("reviews").json()["items"] == []
    assert Program(dave).get(f"reviews/{review.pk}/items").status_code == 404
    assert problem(Program(alice, only=[]).get("reviews")) == NOT_ALLOWED


def test_lists_are_filtered(alice: User, shares: list[Share], max_queries: Any) -> None:
    running, over = factories.make_review(*shares), factories.make_review(name="Q3", closed_at=timezone.now())
    program = Program(alice)

    def seen(**query: Any) -> list[int]:
        return values(program.get("reviews", **query), "id")

    assert (seen(state="running"), seen(state="over"), seen(q="q3")) == ([running.pk], [over.pk], [over.pk])
    first = program.get("reviews", limit=1).json()
    assert seen(limit=1, after=first["next"]) == [running.pk]
    assert wrong_fields(program.get("reviews", state="closed")) == {"state"}
    path = f"reviews/{running.pk}/items"
    page = program.get(path, limit=1).json()
    rest = program.get(path, limit=1, after=page["next"]).json()
    assert [item["shared_with"] for item in (*page["items"], *rest["items"])] == ["Dave Stranger <dave>", "Finance"]
    assert program.get(path, decision="removed").json()["items"] == []
    with max_queries(9):
        program.get(path)


def test_a_share_that_has_ended_needs_no_answer(bob: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    Share.objects.filter(pk=shares[0].pk).update(ended_at=timezone.now())
    items = Program(bob).get(f"reviews/{review.pk}/items").json()["items"]
    assert [item["can_answer"] for item in items] == [False, True]


def test_the_report_is_for_it_admins_and_auditors(bob: User, carol: User, dave: User, shares: list[Share]) -> None:
    review = factories.make_review(*shares)
    answer = Program(carol).get(f"reviews/{review.pk}/report")
    assert (answer["Content-Type"], answer["Cache-Control"]) == ("text/csv; charset=utf-8", "no-store, private")
    header, *rows = csv.reader(answer.getvalue().decode("utf-8-sig").splitlines())
    assert [(row[header.index("Shared with")], row[header.index("Decision")]) for row in rows] == [
        ("Dave Stranger <dave>", "open"),
        ("Finance", "open"),
    ]
    assert problem(Program(bob).get(f"reviews/{review.pk}/report")) == NOT_ALLOWED
    assert problem(Program(dave).get(f"reviews/{review.pk}/report")) == NOT_FOUND
    head = Program(carol).client.head(f"/api/v1/reviews/{review.pk}/report")
    assert (head.status_code, head.getvalue()) == (200, b"")
