from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import FilterLookup, Query, Router, Schema, Status
from pydantic import Field

from connections import csv_export
from connections.access import permissions, querysets, roles
from connections.api import key_scoping, problems
from connections.api.field_types import Day, Name, Number, RequestSchema, Text, listed
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.api.shares import Level
from connections.errors import InvalidInput
from connections.models import AccessReview, ReviewItem
from connections.services.governance import access_review_report, access_reviews
from connections.services.governance.access_reviews import MOST_ROWS, NOTE_LENGTH
from connections.validators import end_of_day

router = Router(tags=["Access reviews"])
Decision = Annotated[ReviewItem.Decision, listed(ReviewItem.Decision)]
READING = (Scope.ADMIN_READ, Scope.CONNECTIONS_READ)


class ReviewOut(Schema):
    """A review of the shares that were active when it started. Unconfirmed shares are removed on the due date."""

    id: int
    name: str
    covers: str = Field(
        validation_alias="scope_name", description="All shares, or those of one tenant or app registration."
    )
    state: Literal["running", "closed", "cancelled"]
    started_at: datetime
    started_by: str = Field(validation_alias="started_by_name")
    due_at: datetime = Field(description="The end of its last day.")
    closed_at: datetime | None
    cancelled_at: datetime | None
    cancelled_by: str = Field(validation_alias="cancelled_by_name")
    link: Annotated[str, link_to("review")] = Field(validation_alias="pk")

    @staticmethod
    def resolve_state(review: AccessReview) -> str:
        if review.is_running:
            return "running"
        return "closed" if review.closed_at is not None else "cancelled"


class Figures(Schema):
    """The number of shares in a review, by decision."""

    open: int
    confirmed: int
    removed: int
    expired: int = Field(description="Removed because nobody answered.")
    gone: int = Field(description="Already removed or expired.")


class ReviewRead(ReviewOut):
    """A review with its progress."""

    to_answer: int = Field(description="Number of shares that the key's owner still needs to review.")
    figures: Figures | None = Field(description="Counts for all shares, for IT admins and auditors.")

    @staticmethod
    def resolve_to_answer(review: AccessReview, context: dict[str, Any]) -> int:
        tasks = access_reviews.tasks_of(context["request"].auth.owner)
        return next((count for task, count in tasks if task.pk == review.pk), 0)

    @staticmethod
    def resolve_figures(review: AccessReview, context: dict[str, Any]) -> dict[str, int] | None:
        reads_all = permissions.can_read_reviews(context["request"].auth.owner)
        return dict(access_reviews.count_decisions(review)) if reads_all else None


class ReviewItemOut(Schema):
    """A share in a review, as it was when the review started, and the decision about it."""

    id: int
    connection_id: int | None
    connection_name: str
    app_registration: str = Field(validation_alias="app_name")
    owner: str = Field(validation_alias="owner_name")
    shared_with: str = Field(validation_alias="with_name")
    is_team: bool
    level: Level
    until: datetime | None
    given_by: str = Field(validation_alias="given_by_name")
    given_at: datetime
    last_used_at: datetime | None = Field(
        description="When one of their keys last requested a token before the review."
    )
    decision: Decision
    decided_by: str = Field(validation_alias="decided_by_name")
    decided_at: datetime | None
    note: str
    ended_at: datetime | None = Field(description="When the review removed the share.")
    can_answer: bool = Field(description="Whether the key's owner can review it now.")

    @staticmethod
    def resolve_can_answer(item: Any) -> bool:
        """Whether the key's owner may decide the item now: it is theirs, and neither the review nor the share has
        ended.
        """
        is_open = item.review.is_running and item.is_own and item.can_be_answered
        return is_open and item.share is not None and item.share.is_active(timezone.now())


class ReviewQuery(PageQuery):
    not_columns = {"state"}

    q: Annotated[Text, FilterLookup(["name__icontains", "scope_name__icontains"])] = Field(
        "", max_length=100, description="Part of the name."
    )
    state: Literal["running", "over"] | None = Field(None, description="Only running or closed reviews.")


class ReviewItemQuery(PageQuery):
    not_columns = {"mine"}

    decision: Decision | None = Field(None, description="Only items with this decision.")
    mine: bool = Field(False, description="Only items that the key's owner reviews.")


class ReviewIn(RequestSchema):
    """A review to start: for all shares, or for the connections of one tenant or app registration."""

    name: Name = Field(examples=["Q4 2027"])
    due: Day = Field(
        description="The last day (UTC), between two days and half a year from today.", examples=["2027-12-31"]
    )
    tenant_id: Number | None = None
    app_registration_id: Number | None = None


class AnswerIn(RequestSchema):
    item_id: Number = Field(examples=[1])
    decision: Literal["confirmed", "removed"] = Field(
        description="removed: the share is removed immediately and permanently.", examples=["confirmed"]
    )
    note: Text = Field("", max_length=NOTE_LENGTH)


class AnswersIn(RequestSchema):
    answers: list[AnswerIn] = Field(min_length=1, max_length=MOST_ROWS)


class AnswersOut(Schema):
    confirmed: int
    removed: int
    passed_over: int = Field(description="Skipped: already answered, already removed, or assigned to someone else.")


@router.get("/reviews", response=page_of(ReviewOut), summary="List access reviews")
def list_reviews(request: HttpRequest, query: Query[ReviewQuery]) -> Any:
    """IT admins and auditors get all reviews, others those that concern their own connections. Newest first."""
    key = key_scoping.unlimited(request, *READING)
    reviews = querysets.visible_reviews(key.owner)
    if query.state is not None:
        reviews = access_review_report.in_state(reviews, query.state)
    return page(reviews, query, order=("-started_at", "-pk"))


@router.post("/reviews", response={201: ReviewRead} | problems.responses(404), summary="Start an access review")
@idempotent(Scope.ADMIN_WRITE)
def start_review(request: HttpRequest, response: HttpResponse, body: ReviewIn) -> Any:
    """Owners are notified and reminded by email. Unanswered shares are removed when the review closes."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    roles.require(permissions.can_manage_reviews(key.owner), action="Ask an IT admin.")
    if body.tenant_id is not None and body.app_registration_id is not None:
        raise InvalidInput("Send tenant_id or app_registration_id, not both.", field="tenant_id")
    apps, tenants = querysets.visible_app_registrations(key.owner), querysets.visible_tenants(key.owner)
    review = access_reviews.start(
        body.name,
        due_at=end_of_day(body.due),
        app_registration=get_object_or_404(apps, pk=body.app_registration_id) if body.app_registration_id else None,
        tenant=get_object_or_404(tenants, pk=body.tenant_id) if body.tenant_id else None,
        actor=key.owner,
        now=timezone.now(),
    )
    with_location(response, "read_review", review_id=review.pk)
    return Status(201, review)


@router.get("/reviews/{int:review_id}", response=ReviewRead, summary="Get an access review")
def read_review(request: HttpRequest, review_id: int) -> Any:
    """One review, and how many shares still need an answer."""
    return key_scoping.key_and_object(request, querysets.visible_reviews, review_id, *READING)[1]


@router.get(
    "/reviews/{int:review_id}/items", response=page_of(ReviewItemOut), summary="List the shares in an access review"
)
def list_review_items(request: HttpRequest, review_id: int, query: Query[ReviewItemQuery]) -> Any:
    """IT admins and auditors get all items, others those of their own connections. Ordered by the connection's name."""
    key, review = key_scoping.key_and_object(request, querysets.visible_reviews, review_id, *READING)
    own = querysets.review_items_of(key.owner, review=review)
    items = review.items.all() if permissions.can_read_reviews(key.owner) and not query.mine else own
    items = items.annotate(is_own=Q(pk__in=own.order_by().values("pk"))).select_related("share", "review")
    return page(items, query, order=("connection_name", "pk"))


@router.post("/reviews/{int:review_id}/answers", response=AnswersOut, summary="Submit access review decisions")
@idempotent(Scope.CONNECTIONS_WRITE)
def answer_review(request: HttpRequest, review_id: int, body: AnswersIn) -> Any:
    """Confirm or remove shares of your own connections. Repeating an answer changes nothing.

    IT admins answer for owners who have left or never sign in. While the review is running, a confirmed share can still
    be removed.
    """
    key, review = key_scoping.key_and_object(request, querysets.visible_reviews, review_id, Scope.CONNECTIONS_WRITE)
    own = querysets.review_items_of(key.owner, review=review)
    roles.require(own.exists(), cause="This review has no items for you.", action="Only connection owners can answer.")
    counts = Counter(answer.item_id for answer in body.answers)
    repeated = [item_id for item_id, count in counts.items() if count > 1]
    if repeated:
        raise InvalidInput(f"Item {repeated[0]} has two answers.", field="answers")
    answers = {
        answer.item_id: access_reviews.Answer(answer.decision, " ".join(answer.note.split())) for answer in body.answers
    }
    return access_reviews.answer(review, answers, actor=key.owner, now=timezone.now())


@router.post("/reviews/{int:review_id}/cancel", response=ReviewRead, summary="Cancel an access review")
@idempotent(Scope.ADMIN_WRITE)
def cancel_review(request: HttpRequest, review_id: int) -> Any:
    """Cancel a review. No share is removed. Safe to repeat."""
    key, review = key_scoping.key_and_object(request, querysets.visible_reviews, review_id, Scope.ADMIN_WRITE)
    access_reviews.cancel(review, actor=key.owner, now=timezone.now())
    review.refresh_from_db()
    return review


@router.get(
    "/reviews/{int:review_id}/report",
    response={200: None},
    summary="Export an access review",
    openapi_extra={"responses": {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}},
)
def export_review(request: HttpRequest, review_id: int) -> Any:
    """All shares in the review as CSV, for IT admins and auditors. A closed review's report no longer changes."""
    key, review = key_scoping.key_and_object(request, querysets.visible_reviews, review_id, Scope.ADMIN_READ)
    roles.require(permissions.can_read_reviews(key.owner), action="Ask an IT admin or an auditor.")
    response = csv_export.as_csv(*access_review_report.table(review, actor=key.owner))
    response["Cache-Control"] = "no-store, private"
    return response
