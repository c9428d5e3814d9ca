"""Start, answer and cancel access reviews. access_review_schedule.py contains their automatic steps."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Count, Max, QuerySet

from connections import audit
from connections.access import permissions, querysets, roles
from connections.errors import InvalidInput, PortalError
from connections.models import (
    AccessReview,
    AppRegistration,
    AuditEvent,
    ReviewItem,
    ReviewPlan,
    Share,
    Tally,
    TeamMember,
    Tenant,
    TokenFetch,
    User,
)
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.services.notifications import alerts
from connections.services.sharing import shares as sharing_service

T = TypeVar("T")
Decision = ReviewItem.Decision

SHORTEST = timedelta(days=2)  # a shorter review leaves no time for a warning
LONGEST = timedelta(days=180)
MOST_DAYS, LEAST_DAYS = 90, 7  # for the quarterly review
NOTE_LENGTH = 500
MOST_ROWS = 200  # answers in one request; a page shows fewer
BATCH = 500
ANSWERS = (Decision.CONFIRMED, Decision.REMOVED)


class ReviewClosed(PortalError):
    code = "review_is_over"
    status = 409
    cause = "This review is closed. Nothing was changed."
    action = "You can change shares on the connection's page."


def start(
    name: str,
    *,
    due_at: datetime,
    app_registration: AppRegistration | None = None,
    tenant: Tenant | None = None,
    actor: User | None,
    now: datetime,
) -> AccessReview:
    """Start a review of all active shares, or those of one app registration or tenant, and ask the owners.

    ``actor`` is None for a scheduled review. Raises NotAllowed, or InvalidInput if ``due_at`` is too early or too late
    or nothing is shared.
    """
    if actor is not None:
        roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    if not now + SHORTEST <= due_at <= now + LONGEST:
        raise InvalidInput("The last day must be between two days and half a year from today.", field="due")
    scope_name = f"Tenant {tenant.name}" if tenant is not None else "All shares"
    if app_registration is not None:
        scope_name = f"App registration {app_registration.name} ({app_registration.tenant.name})"
    with transaction.atomic():
        review = AccessReview.objects.create(
            name=name,
            app_registration=app_registration,
            tenant=tenant,
            scope_name=scope_name,
            started_at=now,
            started_by=actor,
            started_by_name=audit.recorded_name(actor),
            due_at=due_at,
        )
        count = _freeze(review, now)
        if not count and actor is not None:
            raise InvalidInput("There are no shares to review.")
        changes = {"covers": review.scope_name, "due": due_at.isoformat(), "shares": count}
        audit.record(AuditAction.ACCESS_REVIEW_STARTED, review, actor=actor, changes=changes, at=now)
        ask_owners(review, now=now)
    return review


def batches(rows: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(rows)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _freeze(review: AccessReview, now: datetime) -> int:
    """Create an item for each share that the review covers, in few statements. Returns the number of items."""
    shares = Share.objects.active(now)
    if review.app_registration is not None:
        shares = shares.filter(connection__app_registration=review.app_registration)
    if review.tenant is not None:
        shares = shares.filter(connection__tenant=review.tenant)
    # The time at which a person's keys last fetched a token for a connection, by (connection, person).
    fetches = TokenFetch.objects.filter(connection__in=shares.values("connection"), key__isnull=False).order_by()
    grouped = fetches.values_list("connection", "key__owner").annotate(last=Max("minute"))
    used = {(connection, owner): last for connection, owner, last in grouped}
    members = members_of(shares.filter(team__isnull=False).values("team"))
    rows = shares.select_related("connection__owner", "connection__app_registration", "person", "team", "created_by")
    count = 0
    for batch in batches(without_tokens(rows).order_by("pk").iterator(chunk_size=BATCH)):
        ReviewItem.objects.bulk_create([_item(review, share, used, members) for share in batch])
        count += len(batch)
    return count


def members_of(teams: QuerySet[Any, Any]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for team, user in TeamMember.objects.filter(team__in=teams).values_list("team", "user"):
        members.setdefault(team, []).append(user)
    return members


def _item(
    review: AccessReview, share: Share, used: Mapping[tuple[int, int], datetime], members: Mapping[int, list[int]]
) -> ReviewItem:
    connection = share.connection
    people = members.get(share.team_id, []) if share.team_id else [share.person_id or 0]
    times = [used[connection.pk, person] for person in people if (connection.pk, person) in used]
    return ReviewItem(
        review=review,
        share=share,
        connection=connection,
        connection_name=connection.name,
        app_name=connection.app_registration.name,
        owner=connection.owner,
        owner_name=audit.recorded_name(connection.owner),
        is_team=share.team is not None,
        with_name=share.team.name if share.team is not None else audit.recorded_name(share.person),
        level=share.level,
        until=share.until,
        given_by_name=audit.recorded_name(share.created_by) if share.created_by else "",
        given_at=share.created_at,
        last_used_at=max(times, default=None),
    )


def ask_owners(review: AccessReview, *, now: datetime) -> None:
    """Email the owners with open items, or IT admins where an owner cannot answer.

    Call it whenever an owner changes.
    """
    notify_owners(
        review,
        "asked",
        now=now,
        subject=f"Action required: access review “{review.name}”",
        paragraphs=(
            "Some of your connections are shared with others. Confirm or remove each share.",
            f"Unanswered access is removed after {format_day(review.last_day)}.",
        ),
    )


def notify_owners(
    review: AccessReview, occasion: str, *, subject: str, paragraphs: tuple[str, ...], now: datetime, tone: str = "info"
) -> None:
    """Email everybody who has open items, at most once per ``occasion``."""
    message = alerts.Message(
        subject=subject,
        paragraphs=paragraphs,
        path=f"/reviews/{review.pk}/",
        button="Start review",
        why="You received this email because you own shared connections.",
        tone=tone,
    )
    about = f"access-review:{review.pk}:{occasion}"
    items = review.items.filter(decision=Decision.OPEN)
    owners = User.objects.filter(pk__in=items.exclude(querysets.OWNER_CANNOT_ANSWER).values("connection__owner"))
    for batch in batches(owners.select_related("alert_choice").order_by("pk")):
        alerts.notify(batch, message, about=about, now=now)
    unanswerable = items.filter(querysets.OWNER_CANNOT_ANSWER).count()
    if unanswerable:
        text = (
            f"{unanswerable} of the shares belong to connections whose owner has left or is a service account. "
            "IT admins review these."
        )
        why = "You received this email because you're an IT admin."
        message = replace(message, paragraphs=(text, *paragraphs[1:]), why=why)
        alerts.notify_it_admins(message, about=f"{about}:left", now=now)


def format_day(moment: datetime) -> str:
    """Format a day like "31 December 2026 (UTC)"."""
    return f"{moment.day} {moment:%B %Y} (UTC)"


@dataclass(frozen=True, slots=True)
class Answer:
    decision: str  # one of ANSWERS
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    confirmed: int = 0
    removed: int = 0
    passed_over: int = 0  # ended in the meantime, or the actor may not answer them


def answer(review: AccessReview, answers: Mapping[int, Answer], *, actor: User, now: datetime) -> AnswerCounts:
    """Confirm or end shares. ``answers`` are by item ID. Ending is final; repeating an answer changes nothing.

    Skips items that the actor may not answer (any more). Raises ReviewClosed or InvalidInput.
    """
    if any(item.decision not in ANSWERS or len(item.note) > NOTE_LENGTH for item in answers.values()):
        raise InvalidInput("Choose “confirm” or “remove”. A note can have at most 500 characters.")
    counts = dict.fromkeys(("confirmed", "removed"), 0)
    with transaction.atomic():
        # Lock the review, so that it cannot be closed in the meantime.
        if not AccessReview.objects.select_for_update().get(pk=review.pk).is_running:
            raise ReviewClosed
        own_items = querysets.review_items_of(actor, review=review, pk__in=list(answers))
        rows = ReviewItem.objects.filter(pk__in=own_items.values("pk")).select_for_update(of=("self",)).order_by("pk")
        rows = rows.select_related("share__connection", "share__person", "share__team")
        for item in without_tokens(rows, "share__connection"):
            verb = _answer(review, item, answers[item.pk], actor=actor, now=now)
            if verb:
                counts[verb] += 1
    return AnswerCounts(**counts, passed_over=len(answers) - sum(counts.values()))


def _answer(review: AccessReview, item: ReviewItem, new: Answer, *, actor: User, now: datetime) -> str:
    """Answer one item. Returns "confirmed" or "removed", or "" if nothing has changed."""
    share = item.share
    if not item.can_be_answered or share is None or not share.is_active(now):
        return ""
    if (item.decision, item.note) == (new.decision, new.note):
        return ""
    values = {
        "decision": new.decision,
        "note": new.note,
        "decided_level": share.level,
        "decided_by": actor,
        "decided_by_name": audit.recorded_name(actor),
        "decided_at": now,
    }
    verb = "confirmed"
    if new.decision == Decision.REMOVED:
        verb, values["ended_at"] = "removed", now
        # If someone else has just ended the share, it is not recorded as ended by the review.
        if not sharing_service.end_for_reason(share, end_reason(review, new.note), actor=actor, now=now):
            return ""
    ReviewItem.objects.filter(pk=item.pk).update(**values)
    changes = {"review": f"{review} ({review.pk})", "with": item.with_name, "level": share.level, "note": new.note}
    audit.record(AuditAction(f"access_review.share_{verb}"), share.connection, actor=actor, changes=changes, at=now)
    return verb


def end_reason(review: AccessReview, note: str = "") -> str:
    """Return the reason that is audited when a review ends a share."""
    return f"Access review “{review}” ({review.pk})" + (f": {note}" if note else "")


def cancel(review: AccessReview, *, actor: User, now: datetime) -> None:
    """Cancel a review and keep its open shares. Safe to repeat. Raises NotAllowed or ReviewClosed."""
    roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    with transaction.atomic():
        current = AccessReview.objects.select_for_update().get(pk=review.pk)
        if current.cancelled_at is not None:
            return
        if current.closed_at is not None:
            raise ReviewClosed
        # Send the emails first, because owners are notified only while a review is running.
        notify_owners(
            current,
            "cancelled",
            now=now,
            subject=f"Access review “{current.name}” was cancelled",
            paragraphs=(f"{actor} cancelled this review.", "All access stays as it is."),
        )
        AccessReview.objects.filter(pk=review.pk).update(cancelled_at=now, cancelled_by_name=audit.recorded_name(actor))
        audit.record(
            AuditAction.ACCESS_REVIEW_CANCELLED, current, actor=actor, changes=dict(count_decisions(current)), at=now
        )


def get_schedule() -> ReviewPlan:
    return ReviewPlan.objects.first() or ReviewPlan(pk=1)


def set_schedule(*, is_on: bool, days: int, actor: User, now: datetime) -> None:
    """Switch the quarterly review on (from the next quarter) or off. Raises NotAllowed or InvalidInput."""
    roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    if not LEAST_DAYS <= days <= MOST_DAYS:
        raise InvalidInput(f"Enter a number of days from {LEAST_DAYS} to {MOST_DAYS}.", field="days")
    with transaction.atomic():
        current = ReviewPlan.objects.select_for_update().first() or ReviewPlan(pk=1)
        changes = audit.changed_fields(current, {"is_on": is_on, "days": days})
        if not changes:
            return
        values: dict[str, object] = {"is_on": is_on, "days": days}
        if is_on and not current.is_on:
            values["quarter"] = quarter(now)
        plan, _ = ReviewPlan.objects.update_or_create(pk=1, defaults=values)
        audit.record(AuditAction.ACCESS_REVIEW_PLANNED, plan, actor=actor, changes=changes, at=now)


def quarter(moment: datetime) -> str:
    """Format a quarter like "2026-Q4"."""
    return f"{moment.year}-Q{(moment.month + 2) // 3}"


def count_decisions(review: AccessReview) -> Iterator[tuple[str, int]]:
    """Return the kept count of items with each decision."""
    values = [f"{review.pk}:{decision.value}" for decision in Decision]
    counts: dict[str, int] = dict(Tally.objects.filter(subject=Tally.REVIEWS, value__in=values).totals("value"))
    return ((decision.value, counts.get(value, 0)) for decision, value in zip(Decision, values, strict=True))


def tasks_of(user: User) -> list[tuple[AccessReview, int]]:
    """Return the running reviews and how many items this person must answer in each, the most urgent first."""
    running = list(AccessReview.objects.filter(closed_at=None, cancelled_at=None).order_by("due_at", "pk"))
    if not running:
        return []
    own_items = querysets.review_items_of(user, review__in=[review.pk for review in running], decision=Decision.OPEN)
    own_items = own_items.filter(share__isnull=False, share__ended_at=None)
    counts = dict(own_items.order_by().values_list("review").annotate(count=Count("pk")))
    return [(review, counts[review.pk]) for review in running if review.pk in counts]


def events_of(review: AccessReview) -> QuerySet[AuditEvent]:
    """Return the audit events about the review itself. Its decisions are recorded on the connections."""
    return AuditEvent.objects.filter(target_type="AccessReview", target_id=str(review.pk)).order_by("pk")
