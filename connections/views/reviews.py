"""Pages about access reviews: the list, starting one, answering, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import access
from connections.errors import PortalError
from connections.forms import reviews as forms
from connections.models import AccessReview, ReviewItem, User
from connections.models.connections import without_tokens
from connections.services import reviews
from connections.views import listing, tables

Decision = ReviewItem.Decision
USUAL_LENGTH = timedelta(days=21)
PRINTED = 2000  # items on the printable page; the CSV has them all

_COLUMNS = (
    "Connection", "App registration", "Owner", "Shared with", "Kind", "Level", "Until", "Given by", "Given at",
    "Last used", "Decision", "Level when decided", "Decided by", "Decided at", "Note", "Ended at",
)  # fmt: skip


# --- Lists ----------------------------------------------------------------------------------------


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Reviews, newest first; for IT admins also the setting that starts them."""
    user = access.signed_in(request.user)
    return render(request, "reviews/index.html", _list(request, user, form=None))


def _list(request: HttpRequest, user: User, *, form: forms.PlanForm | None) -> dict[str, Any]:
    states = listing.Choice("state", "State", [("running", "Running"), ("over", "Over")], in_state)
    filters = listing.Filters(request, search=("name", "scope_name"), placeholder="Name", choices=(states,))
    plan = reviews.the_plan()
    return {
        "page": listing.page(request, filters.apply(access.visible_reviews(user)), order=("-started_at", "-pk")),
        "filters": filters,
        "may_manage": access.can_manage_reviews(user),
        "reads_all": access.can_read_reviews(user),
        "plan": plan,
        "form": form or forms.PlanForm(initial={"is_on": plan.is_on, "days": plan.days}),
    }


def in_state(found: QuerySet[AccessReview], value: str) -> QuerySet[AccessReview]:
    """Those that are "running", or else those that are over."""
    running = Q(closed_at=None, cancelled_at=None)
    return found.filter(running if value == "running" else ~running)


@require_POST
def plan(request: HttpRequest) -> HttpResponse:
    """Switch the quarterly review on or off."""
    user = access.signed_in(request.user)
    access.require(access.can_manage_reviews(user), action="Ask an IT admin.")
    form = forms.PlanForm(request.POST)
    if not form.is_valid():
        return render(request, "reviews/index.html", _list(request, user, form=form), status=422)
    reviews.plan(**form.cleaned_data, actor=user, now=timezone.now())
    on = form.cleaned_data["is_on"]
    messages.success(request, "The next quarter starts with a review." if on else "No review starts by itself.")
    return redirect("reviews")


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    """Start a review."""
    user = access.signed_in(request.user)
    access.require(access.can_manage_reviews(user), action="Ask an IT admin.")
    now = timezone.now()
    initial = {"name": f"Access review {reviews.quarter(now)}", "covers": "all", "due": (now + USUAL_LENGTH).date()}
    form = forms.ReviewForm(
        request.POST or None,
        apps=access.visible_app_registrations(user),
        tenants=access.visible_tenants(user),
        initial=initial,
    )
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            made = reviews.start(data["name"], due_at=data["due"], **form.covered(), actor=user, now=now)  # type: ignore[arg-type]
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            messages.success(request, "The review has started, and the owners are asked by e-mail.")
            return redirect("review", pk=made.pk)
    return render(request, "reviews/add.html", {"form": form}, status=422 if form.is_bound and form.errors else 200)


# --- One review -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One share to answer for."""

    item: ReviewItem
    changed_to: str  # its level now, if that is another than when the review started
    gone: bool  # it has ended meanwhile, so there is nothing to answer


@require_http_methods(["GET", "HEAD", "POST"])
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """How a review stands, and the reader's shares to confirm or remove; one form for a page of them."""
    user = access.signed_in(request.user)
    review = get_object_or_404(access.visible_reviews(user), pk=pk)
    if request.method == "POST":
        return _take_answers(request, review, user)
    choice = listing.Choice("decision", "Answer", Decision.choices, listing.by("decision"))
    filters = listing.Filters(request, search=("connection_name", "with_name"), placeholder="Connection or person",
                              choices=(choice,))  # fmt: skip
    mine = without_tokens(access.review_items_of(user).filter(review=review).select_related("share", "connection"))
    page = listing.page(request, filters.apply(mine), order=("connection_name", "pk"))
    now = timezone.now()
    reads_all = access.can_read_reviews(user)
    context = {
        "review": review,
        "page": page,
        "rows": [_row(item, now) for item in page.items],
        "filters": filters,
        "figures": figures(review) if reads_all else None,
        "reads_all": reads_all,
        "may_cancel": access.can_manage_reviews(user) and review.is_running,
        "can_answer": review.is_running and any(item.can_be_answered for item in page.items),
    }
    return render(request, "reviews/detail.html", context)


def _row(item: ReviewItem, now: datetime) -> Row:
    share = item.share
    gone = item.can_be_answered and (share is None or not share.is_active(now))
    changed = share is not None and share.level != item.level
    return Row(item, share.get_level_display().partition(":")[0] if share and changed else "", gone)


def _take_answers(request: HttpRequest, review: AccessReview, user: User) -> HttpResponse:
    mine = access.review_items_of(user).filter(review=review)
    access.require(mine.exists(), cause="Nothing in this review is yours to answer.", action="Its owners answer it.")
    try:
        done = reviews.answer(review, forms.answers(request.POST), actor=user, now=timezone.now())
    except PortalError as error:
        messages.warning(request, str(error))
    else:
        _say(request, done)
    back = redirect("review", pk=review.pk)
    query = request.GET.urlencode()
    return redirect(f"{back.url}?{query}") if query else back


def _say(request: HttpRequest, done: reviews.Answered) -> None:
    said = [f"{done.confirmed} confirmed"] if done.confirmed else []
    said += [f"{done.removed} ended at once"] if done.removed else []
    if said:
        messages.success(request, f"Saved: {', '.join(said)}.")
    else:
        messages.info(request, "Nothing was changed: no row had a new answer.")


@dataclass(frozen=True, slots=True)
class Figure:
    """How many shares have been decided about in one way."""

    label: str
    value: str
    count: int


def figures(review: AccessReview) -> list[Figure]:
    """The numbers of a review."""
    return [Figure(str(Decision(value).label), value, count) for value, count in reviews.tally(review)]


@require_http_methods(["GET", "HEAD", "POST"])
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """Say what cancelling means, then cancel."""
    user = access.signed_in(request.user)
    review = get_object_or_404(access.visible_reviews(user), pk=pk)
    access.require(access.can_manage_reviews(user), action="Ask an IT admin.")
    if request.method == "POST":
        try:
            reviews.cancel(review, actor=user, now=timezone.now())
        except PortalError as error:
            messages.warning(request, str(error))
        else:
            messages.success(request, f"{review} is cancelled. No share ends because of it.")
        return redirect("review", pk=pk)
    return render(request, "reviews/cancel.html", {"review": review})


# --- The report -----------------------------------------------------------------------------------


@require_safe
def report(request: HttpRequest, pk: int) -> HttpResponse:
    """Everything about a review on one page, to be printed."""
    review = _to_report(request, pk)
    items = list(review.items.order_by("connection_name", "pk")[: PRINTED + 1])
    context = {
        "review": review,
        "figures": figures(review),
        "total": sum(one.count for one in figures(review)),
        "items": items[:PRINTED],
        "more": len(items) > PRINTED,
        "events": reviews.events_of(review),
        "now": timezone.now(),
    }
    return render(request, "reviews/report.html", context)


@require_safe
def export(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Every item of a review as CSV."""
    return as_csv(_to_report(request, pk))


def as_csv(review: AccessReview) -> StreamingHttpResponse:
    """The report of a review to take along."""
    items = review.items.order_by("connection_name", "pk").iterator(chunk_size=1000)
    return tables.as_csv(f"access-review-{review.pk}.csv", _COLUMNS, (_line(item) for item in items))


def _to_report(request: HttpRequest, pk: int) -> AccessReview:
    user = access.signed_in(request.user)
    review = get_object_or_404(access.visible_reviews(user), pk=pk)
    access.require(access.can_read_reviews(user), action="Ask an IT admin or an auditor.")
    return review


def _line(item: ReviewItem) -> tuple[Any, ...]:
    return (
        item.connection_name, item.app_name, item.owner_name, item.with_name, "team" if item.is_team else "person",
        item.level, _at(item.until), item.given_by_name, _at(item.given_at), _at(item.last_used_at), item.decision,
        item.decided_level, item.decided_by_name, _at(item.decided_at), item.note, _at(item.ended_at),
    )  # fmt: skip


def _at(when: datetime | None) -> str:
    return when.isoformat(timespec="seconds") if when else ""
