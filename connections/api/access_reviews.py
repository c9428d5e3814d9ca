"""Access reviews over the API: started, answered, cancelled, and their report."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections import csv_export
from connections.access import permissions, querysets, roles
from connections.api import key_scoping, problems
from connections.api.field_types import Day, Name, Number, RequestSchema, Text, listed
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, matching, page
from connections.api.shares import Level
from connections.errors import InvalidInput
from connections.models import AccessReview, ApiKey, ReviewItem
from connections.services.governance import access_review_report, access_reviews
from connections.services.governance.access_reviews import MOST_ROWS, NOTE_LENGTH
from connections.validators import end_of_day

router = Router(tags=["Access reviews"])
Decision = Annotated[ReviewItem.Decision, listed(ReviewItem.Decision)]
READING = (Scope.ADMIN_READ, Scope.CONNECTIONS_READ)


class ReviewOut(Schema):
    """A review of the shares that counted when it started; what nobody confirms ends on its date."""

    id: int
    name: str
    covers: str = Field(description="Everything, or which tenant or app registration.")
    state: Literal["running", "closed", "cancelled"]
    started_at: datetime
    started_by: str
    due_at: datetime = Field(description="The first moment after its last day.")
    closed_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str
    link: str


class Figures(Schema):
    """How many shares have been decided about in which way."""

    open: int
    confirmed: int
    removed: int
    expired: int = Field(description="Ended unanswered.")
    gone: int = Field(description="Had ended already.")


class ReviewRead(ReviewOut):
    """A review, and how far it is."""

    to_answer: int = Field(description="How many shares wait for an answer of the key's owner.")
    figures: Figures | None = Field(description="Of all shares, for IT admins and auditors.")


class ReviewPage(Page):
    """One page of reviews."""

    items: list[ReviewOut]


class ReviewItemOut(Schema):
    """One share in a review, as it stood when the review started, and what was decided about it."""

    id: int
    connection_id: int | None
    connection_name: str
    app_registration: str
    owner: str
    shared_with: str
    is_team: bool
    level: Level
    until: datetime | None
    given_by: str
    given_at: datetime
    last_used_at: datetime | None = Field(description="When a key of theirs last fetched a token before the review.")
    decision: Decision
    decided_by: str
    decided_at: datetime | None
    note: str
    ended_at: datetime | None = Field(description="When the review ended the share.")
    can_answer: bool = Field(description="Whether the key's owner can answer for it now.")


class ReviewItemPage(Page):
    """One page of a review's shares."""

    items: list[ReviewItemOut]


class ReviewsWanted(PageQuery):
    """Which reviews."""

    q: Text = Field("", max_length=100, description="Part of the name.")
    state: Literal["running", "over"] | None = Field(None, description="Only those that run, or that are over.")


class ReviewItemsWanted(PageQuery):
    """Which shares of a review."""

    decision: Decision | None = Field(None, description="Only those about which this was decided.")
    mine: bool = Field(False, description="Only those for which the key's owner answers.")


class ReviewIn(RequestSchema):
    """A review to be started: of everything, or of the connections of one tenant or app registration."""

    name: Name = Field(examples=["Q4 2027"])
    due: Day = Field(
        description="The last day (UTC), at least two days and at most half a year ahead.", examples=["2027-12-31"]
    )
    tenant_id: Number | None = None
    app_registration_id: Number | None = None


class AnswerIn(RequestSchema):
    """What is decided about one share."""

    item_id: Number = Field(examples=[1])
    decision: Literal["confirmed", "removed"] = Field(
        description="removed: the share ends at once, for good.", examples=["confirmed"]
    )
    note: Text = Field("", max_length=NOTE_LENGTH)


class AnswersIn(RequestSchema):
    """What is decided about several shares."""

    answers: list[AnswerIn] = Field(min_length=1, max_length=MOST_ROWS)


class AnswersOut(Schema):
    """What came of the answers."""

    confirmed: int
    removed: int
    passed_over: int = Field(description="Answered so already, ended, or not of the key's owner to answer (any more).")


@router.get("/reviews", response={200: ReviewPage} | problems.responses(), summary="List access reviews")
def list_reviews(request: HttpRequest, wanted: Query[ReviewsWanted]) -> Any:
    """All for IT admins and auditors, for others those about their connections; newest first."""
    key = key_scoping.unlimited(request, *READING)
    found = querysets.visible_reviews(key.owner).filter(matching(wanted.q, "name", "scope_name"))
    if wanted.state is not None:
        found = access_review_report.in_state(found, wanted.state)
    return page(found, wanted, describe=describe, order=("-started_at", "-pk"))


@router.post(
    "/reviews",
    response={201: ReviewRead} | problems.responses(404, *problems.CREATING),
    summary="Start an access review",
)
@idempotent(Scope.ADMIN_WRITE)
def start_review(request: HttpRequest, response: HttpResponse, entry: ReviewIn) -> Any:
    """The owners are asked by e-mail, reminded and warned; what nobody has answered for when it is over ends."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    roles.require(permissions.can_manage_reviews(key.owner), action="Ask an IT admin.")
    if entry.tenant_id is not None and entry.app_registration_id is not None:
        raise InvalidInput("Send tenant_id or app_registration_id, not both.", field="tenant_id")
    apps, tenants = querysets.visible_app_registrations(key.owner), querysets.visible_tenants(key.owner)
    made = access_reviews.start(
        entry.name,
        due_at=end_of_day(entry.due),
        app_registration=get_object_or_404(apps, pk=entry.app_registration_id) if entry.app_registration_id else None,
        tenant=get_object_or_404(tenants, pk=entry.tenant_id) if entry.tenant_id else None,
        actor=key.owner,
        now=timezone.now(),
    )
    with_location(response, "read_review", review_id=made.pk)
    return Status(201, _read(key, made))


@router.get(
    "/reviews/{int:review_id}", response={200: ReviewRead} | problems.responses(404), summary="Read an access review"
)
def read_review(request: HttpRequest, review_id: int) -> Any:
    """How it stands, and how much is left to answer."""
    key = key_scoping.unlimited(request, *READING)
    return _read(key, _found(key, review_id))


@router.get(
    "/reviews/{int:review_id}/items",
    response={200: ReviewItemPage} | problems.responses(404),
    summary="List the shares in an access review",
)
def list_review_items(request: HttpRequest, review_id: int, wanted: Query[ReviewItemsWanted]) -> Any:
    """All of them for IT admins and auditors, for others those of their connections; by the connections' names."""
    key = key_scoping.unlimited(request, *READING)
    review = _found(key, review_id)
    mine = querysets.review_items_of(key.owner).filter(review=review)
    found = review.items.all() if permissions.can_read_reviews(key.owner) and not wanted.mine else mine
    if wanted.decision is not None:
        found = found.filter(decision=wanted.decision)
    told = page(
        found.select_related("share"),
        wanted,
        describe=lambda item: {"item": item},
        order=("connection_name", "pk"),
    )
    items = [one["item"] for one in told["items"]]
    asked = set(mine.filter(pk__in=[item.pk for item in items]).order_by().values_list("pk", flat=True))
    now = timezone.now()
    return told | {
        "items": [
            describe_item(item) | {"can_answer": review.is_running and item.pk in asked and _waits(item, now)}
            for item in items
        ]
    }


@router.post(
    "/reviews/{int:review_id}/answers",
    response={200: AnswersOut} | problems.responses(404, *problems.CREATING),
    summary="Answer in an access review",
)
@idempotent(Scope.CONNECTIONS_WRITE)
def answer_review(request: HttpRequest, review_id: int, entry: AnswersIn) -> Any:
    """Confirm or end shares of one's own connections; IT admins answer where the owner has left or never signs in. A
    confirmation can become a removal while the review runs. The same answer again changes nothing.
    """
    key = key_scoping.unlimited(request, Scope.CONNECTIONS_WRITE)
    review = _found(key, review_id)
    mine = querysets.review_items_of(key.owner).filter(review=review)
    roles.require(mine.exists(), cause="Nothing in this review is yours to answer.", action="Its owners answer it.")
    twice = [number for number, times in Counter(answer.item_id for answer in entry.answers).items() if times > 1]
    if twice:
        raise InvalidInput(f"There are two answers for item {twice[0]}.", field="answers")
    answers = {
        answer.item_id: access_reviews.Answer(answer.decision, " ".join(answer.note.split()))
        for answer in entry.answers
    }
    done = access_reviews.answer(review, answers, actor=key.owner, now=timezone.now())
    return {"confirmed": done.confirmed, "removed": done.removed, "passed_over": done.passed_over}


@router.post(
    "/reviews/{int:review_id}/cancel",
    response={200: ReviewRead} | problems.responses(404, *problems.CREATING),
    summary="Cancel an access review",
)
@idempotent(Scope.ADMIN_WRITE)
def cancel_review(request: HttpRequest, review_id: int) -> Any:
    """No share ends because of it. Doing it twice is harmless."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    access_reviews.cancel(_found(key, review_id), actor=key.owner, now=timezone.now())
    return _read(key, _found(key, review_id))


@router.get(
    "/reviews/{int:review_id}/report",
    response={200: None} | problems.responses(404),
    summary="Export an access review",
    openapi_extra={"responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}},
)
def export_review(request: HttpRequest, review_id: int) -> Any:
    """Every share in it as CSV, for IT admins and auditors. Once the review is over the report no longer changes."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    review = _found(key, review_id)
    roles.require(permissions.can_read_reviews(key.owner), action="Ask an IT admin or an auditor.")
    response = csv_export.as_csv(*access_review_report.table(review))
    response["Cache-Control"] = "no-store, private"
    return response


# --- Parts ----------------------------------------------------------------------------------------


def _found(key: ApiKey, review_id: int) -> AccessReview:
    return get_object_or_404(querysets.visible_reviews(key.owner), pk=review_id)


def _waits(item: ReviewItem, now: datetime) -> bool:
    """Whether an answer would count: a share that has ended meanwhile needs none."""
    return item.can_be_answered and item.share is not None and item.share.is_active(now)


def _read(key: ApiKey, review: AccessReview) -> dict[str, Any]:
    left = {one.pk: count for one, count in access_reviews.tasks_of(key.owner)}
    figures = dict(access_reviews.count_decisions(review)) if permissions.can_read_reviews(key.owner) else None
    return describe(review) | {"to_answer": left.get(review.pk, 0), "figures": figures}


def describe(review: AccessReview) -> dict[str, Any]:
    """A review as ReviewOut."""
    over = "closed" if review.closed_at is not None else "cancelled"
    columns = ("name", "started_at", "due_at", "closed_at", "cancelled_at")
    return {
        "id": review.pk,
        **{name: getattr(review, name) for name in columns},
        "covers": review.scope_name,
        "state": "running" if review.is_running else over,
        "started_by": review.started_by_name,
        "cancelled_by": review.cancelled_by_name,
        "link": page_link("review", review.pk),
    }


def describe_item(item: ReviewItem) -> dict[str, Any]:
    """A share in a review as ReviewItemOut, without ``can_answer``."""
    columns = ("connection_id", "connection_name", "is_team", "level", "until", "given_at", "last_used_at", "decision")
    shown = {name: getattr(item, name) for name in (*columns, "decided_at", "note", "ended_at")}
    return {
        "id": item.pk,
        **shown,
        "app_registration": item.app_name,
        "owner": item.owner_name,
        "shared_with": item.with_name,
        "given_by": item.given_by_name,
        "decided_by": item.decided_by_name,
    }
