from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import csv_export
from connections.access import permissions, querysets, roles
from connections.forms import access_reviews as forms
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import AccessReview, ReviewItem, User
from connections.models.connections import without_tokens
from connections.services.governance import access_review_report, access_reviews
from connections.time_zones import in_utc
from connections.views import list_pages
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible, render_form

Decision = ReviewItem.Decision
USUAL_LENGTH = timedelta(days=21)
PRINTED = 500  # items on a printable page; the CSV file contains them all


@require_safe
@in_utc
def index(request: HttpRequest) -> HttpResponse:
    return render(request, "access_reviews/index.html", _list(request, roles.current_user(request.user)))


def _list(request: HttpRequest, user: User, *, form: forms.ScheduleForm | None = None) -> dict[str, Any]:
    states = list_pages.Choice(
        "state", "Status", [("running", "Running"), ("over", "Closed")], access_review_report.in_state
    )
    filters = list_pages.Filters(request, search=("name", "scope_name"), placeholder="Name", choices=(states,))
    plan = access_reviews.get_schedule()
    return {
        "page": list_pages.page(request, filters.apply(querysets.visible_reviews(user)), order=("-started_at", "-pk")),
        "filters": filters,
        "may_manage": permissions.can_manage_reviews(user),
        "reads_all": permissions.can_read_reviews(user),
        "plan": plan,
        "form": form or forms.ScheduleForm(initial={"is_on": plan.is_on, "days": plan.days}),
    }


@require_POST
def plan(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(permissions.can_manage_reviews(user), action="Ask an IT admin.")
    form = forms.ScheduleForm(request.POST)
    if not form.is_valid():
        return render(request, "access_reviews/index.html", _list(request, user, form=form), status=422)
    access_reviews.set_schedule(**form.cleaned_data, actor=user, now=timezone.now())
    on = form.cleaned_data["is_on"]
    return done(request, "A review will start every quarter." if on else "Scheduled reviews are turned off.", "reviews")


@require_http_methods(["GET", "HEAD", "POST"])
@in_utc
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(permissions.can_manage_reviews(user), action="Ask an IT admin.")
    now = timezone.now()
    initial = {"name": f"Access review {access_reviews.quarter(now)}", "due": (now + USUAL_LENGTH).date()}
    apps, tenants = querysets.visible_app_registrations(user), querysets.visible_tenants(user)
    form = forms.ReviewForm(request.POST or None, apps=apps, tenants=tenants, initial=initial)
    if form.is_valid():
        data = form.cleaned_data
        with errors_on(form):
            review = access_reviews.start(data["name"], due_at=data["due"], **form.covered(), actor=user, now=now)  # type: ignore[arg-type]
            return done(request, "The review has started. We've emailed the owners.", "review", pk=review.pk)
    return render_form(request, "access_reviews/add.html", form)


@require_http_methods(["GET", "HEAD", "POST"])
@in_utc
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, review = get_visible(request, querysets.visible_reviews, pk)
    if request.method == "POST":
        return _save_answers(request, review, user)
    choice = list_pages.Choice("decision", "Answer", Decision.choices, list_pages.by("decision"))
    filters = list_pages.Filters(request, search=("connection_name", "with_name"), placeholder="Connection or person",
                              choices=(choice,))  # fmt: skip
    mine = without_tokens(querysets.review_items_of(user, review=review).select_related("share", "connection"))
    page = list_pages.page(request, filters.apply(mine), order=("connection_name", "pk"))
    now = timezone.now()
    reads_all = permissions.can_read_reviews(user)
    context = {
        "review": review,
        "page": page,
        "rows": [_row(item, now, is_running=review.is_running) for item in page.items],
        "filters": filters,
        "figures": _figures(review) if reads_all else None,
        "reads_all": reads_all,
        "may_cancel": permissions.can_manage_reviews(user) and review.is_running,
        "can_answer": review.is_running and any(item.can_be_answered for item in page.items),
    }
    return render(request, "access_reviews/detail.html", context)


def _row(item: ReviewItem, now: datetime, *, is_running: bool) -> dict[str, Any]:
    """Return the data of a share to review. If ``gone``, the share has already ended and needs no decision."""
    share = item.share
    changed = share is not None and share.level != item.level
    return {
        "item": item,
        "changed_to": share.get_level_display().partition(":")[0] if share and changed else "",
        "gone": item.can_be_answered and (share is None or not share.is_active(now)),
        "may_answer": is_running and item.can_be_answered,
    }


def _save_answers(request: HttpRequest, review: AccessReview, user: User) -> HttpResponse:
    mine = querysets.review_items_of(user, review=review)
    roles.require(
        mine.exists(),
        cause="No shares in this review are assigned to you.",
        action="The connection owners answer this review.",
    )
    with errors_as_messages(request):
        done = access_reviews.answer(review, forms.answers(request.POST), actor=user, now=timezone.now())
        counts = [f"{done.confirmed} confirmed"] if done.confirmed else []
        counts += [f"{done.removed} removed"] if done.removed else []
        if counts:
            messages.success(request, f"Saved: {', '.join(counts)}.")
        else:
            messages.info(request, "No changes were made, because there were no new answers.")
    back = redirect("review", pk=review.pk)
    query = request.GET.urlencode()
    return redirect(f"{back.url}?{query}") if query else back


def _figures(review: AccessReview) -> list[dict[str, Any]]:
    counts = access_reviews.count_decisions(review)
    return [{"label": Decision(value).label, "value": value, "count": count} for value, count in counts]


@require_http_methods(["GET", "HEAD", "POST"])
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    user, review = get_visible(request, querysets.visible_reviews, pk)
    roles.require(permissions.can_manage_reviews(user), action="Ask an IT admin.")
    if request.method == "POST":
        with errors_as_messages(request):
            access_reviews.cancel(review, actor=user, now=timezone.now())
            messages.success(request, f"{review} was cancelled. Unanswered access stays as it is.")
        return redirect("review", pk=pk)
    return render(request, "access_reviews/cancel.html", {"review": review})


@require_safe
@in_utc
def report(request: HttpRequest, pk: int) -> HttpResponse:
    review = _reported_review(request, pk)
    figures = _figures(review)
    context = {
        "review": review,
        "figures": figures,
        "total": sum(figure["count"] for figure in figures),
        "page": list_pages.page(request, review.items.all(), order=("connection_name", "pk"), size=PRINTED),
        "events": access_reviews.events_of(review),
        "now": timezone.now(),
    }
    return render(request, "access_reviews/report.html", context)


@require_POST
@fresh_sign_in_required()
def export(request: HttpRequest, pk: int) -> HttpResponseBase:
    """Download the report as CSV. This is a POST because the download is recorded."""
    review = _reported_review(request, pk)
    return csv_export.as_csv(*access_review_report.table(review, actor=roles.current_user(request.user)))


def _reported_review(request: HttpRequest, pk: int) -> AccessReview:
    user, review = get_visible(request, querysets.visible_reviews, pk)
    roles.require(permissions.can_read_reviews(user), action="Ask an IT admin or an auditor.")
    return review
