"""Access reviews: started, answered, cancelled. What happens by itself is in review_ticks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TypeVar

from django.db import transaction
from django.db.models import Count, Max, Q, QuerySet

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

SHORTEST = timedelta(days=2)  # less leaves no time for a warning
LONGEST = timedelta(days=180)
MOST_DAYS, LEAST_DAYS = 90, 7  # of a review that starts by itself
NOTE_LENGTH = 500
MOST_ROWS = 200  # answers in one request; a page shows fewer
BATCH = 500
ANSWERS = (Decision.CONFIRMED, Decision.REMOVED)


class ReviewClosed(PortalError):
    """The review was closed or cancelled, so it cannot be changed any more."""

    code = "review_is_over"
    status = 409
    cause = "This review is over. Nothing was changed."
    action = "Shares are changed on the connection's page."


# --- Starting -------------------------------------------------------------------------------------


def start(
    name: str,
    *,
    due_at: datetime,
    app_registration: AppRegistration | None = None,
    tenant: Tenant | None = None,
    actor: User | None,
    now: datetime,
) -> AccessReview:
    """Freeze the shares that count now into a review, and ask the owners; everything, or of one of the two.

    ``actor`` None: by the plan. Raises NotAllowed, InvalidInput (``due_at``, or nothing is shared).
    """
    if actor is not None:
        roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    if not now + SHORTEST <= due_at <= now + LONGEST:
        raise InvalidInput("The last day must be at least two days ahead, and within half a year.", field="due")
    with transaction.atomic():
        review = AccessReview.objects.create(
            name=name,
            app_registration=app_registration,
            tenant=tenant,
            scope_name=_scope_name(app_registration, tenant),
            started_at=now,
            started_by=actor,
            started_by_name=display_name(actor),
            due_at=due_at,
        )
        count = _freeze(review, now)
        if not count and actor is not None:
            raise InvalidInput("Nothing is shared there just now, so there is nothing to review.")
        changes = {"covers": review.scope_name, "due": due_at.isoformat(), "shares": count}
        audit.record(AuditAction.ACCESS_REVIEW_STARTED, review, actor=actor, changes=changes, at=now)
        ask_owners(review, now=now)
    return review


def display_name(user: User | None) -> str:
    """A person as frozen names have them: unique, and readable when they are gone."""
    return f"{user} <{user.username}>" if user is not None else "Portal"


def batches(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """``rows`` in lists of at most ``size``."""
    rest = iter(rows)
    while some := list(islice(rest, size)):
        yield some


def _scope_name(app_registration: AppRegistration | None, tenant: Tenant | None) -> str:
    if app_registration is not None:
        return f"App registration {app_registration.name} ({app_registration.tenant.name})"
    return f"Tenant {tenant.name}" if tenant is not None else "All shares"


def _freeze(review: AccessReview, now: datetime) -> int:
    """One row for each share that counts; a few statements, however many."""
    shares = _covered(review, now)
    used, members = _last_used(shares), _members(shares)
    rows = shares.select_related("connection__owner", "connection__app_registration", "person", "team", "created_by")
    count = 0
    for some in batches(without_tokens(rows).order_by("pk").iterator(chunk_size=BATCH), BATCH):
        ReviewItem.objects.bulk_create([_item(review, share, used, members) for share in some])
        count += len(some)
    return count


def _covered(review: AccessReview, now: datetime) -> QuerySet[Share]:
    found = Share.objects.active(now)
    if review.app_registration is not None:
        found = found.filter(connection__app_registration=review.app_registration)
    if review.tenant is not None:
        found = found.filter(connection__app_registration__tenant=review.tenant)
    return found


def _last_used(shares: QuerySet[Share]) -> dict[tuple[int, int], datetime]:
    """When keys of a person last fetched a token of a connection, by (connection, person)."""
    fetches = TokenFetch.objects.filter(connection__in=shares.values("connection"), key__isnull=False).order_by()
    grouped = fetches.values_list("connection", "key__owner").annotate(last=Max("minute"))
    return {(connection, owner): last for connection, owner, last in grouped}


def _members(shares: QuerySet[Share]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    teams = shares.filter(team__isnull=False).values("team")
    for team, user in TeamMember.objects.filter(team__in=teams).values_list("team", "user"):
        found.setdefault(team, []).append(user)
    return found


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
        owner_name=display_name(connection.owner),
        is_team=share.team is not None,
        with_name=share.team.name if share.team is not None else display_name(share.person),
        level=share.level,
        until=share.until,
        given_by_name=display_name(share.created_by) if share.created_by else "",
        given_at=share.created_at,
        last_used_at=max(times, default=None),
    )


# --- Asking ---------------------------------------------------------------------------------------


def ask_owners(review: AccessReview, *, now: datetime) -> None:
    """Tell each owner that there is something to confirm, and the IT admins of what nobody else can answer for.

    Nobody is told twice, so it can be called whenever somebody may have been added.
    """
    notify_owners(
        review,
        "asked",
        now=now,
        subject=f"Who uses your connections? Please confirm: {review.name}",
        paragraphs=(
            "Some of your connections are shared with others. Look through the list, and confirm or remove each.",
            f"What is not answered by {format_day(review.last_day)} ends by itself.",
        ),
    )


def notify_owners(
    review: AccessReview, occasion: str, *, subject: str, paragraphs: tuple[str, ...], now: datetime, tone: str = "info"
) -> None:
    """A message to everybody who has something left to answer, once for each occasion."""
    owners = User.objects.filter(
        pk__in=_open(review).exclude(querysets.OWNER_CANNOT_ANSWER).values("connection__owner")
    ).select_related("alert_choice")
    message = alerts.Message(
        subject=subject,
        paragraphs=paragraphs,
        path=f"/reviews/{review.pk}/",
        button="Look through the list",
        why="You get this because you own connections that are shared.",
        tone=tone,
    )
    about = f"access-review:{review.pk}:{occasion}"
    for some in batches(owners.order_by("pk"), BATCH):
        alerts.notify(some, message, about=about, now=now)
    left = _open(review).filter(querysets.OWNER_CANNOT_ANSWER).count()
    if left:
        more = (
            f"{left} of the shares belong to connections whose owners have left or are service accounts; an IT admin "
            "answers for these."
        )
        admins = alerts.Message(
            subject=subject,
            paragraphs=(more, *paragraphs[1:]),
            path=message.path,
            button=message.button,
            why="You get this because you are an IT admin.",
            tone=tone,
        )
        alerts.notify_it_admins(admins, about=f"{about}:left", now=now)


def _open(review: AccessReview) -> QuerySet[ReviewItem]:
    return review.items.filter(decision=Decision.OPEN)


def format_day(moment: datetime) -> str:
    """A day for people who may be anywhere: "31 December 2026 (UTC)"."""
    return f"{moment.day} {moment:%B %Y} (UTC)"


# --- Answering ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody decided about one share."""

    decision: str  # one of ANSWERS
    note: str = ""


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """What came of a set of answers."""

    confirmed: int = 0
    removed: int = 0
    passed_over: int = 0  # ended, or somebody else's by now


def answer(review: AccessReview, answers: Mapping[int, Answer], *, actor: User, now: datetime) -> AnswerCounts:
    """Confirm or end shares, by the ids of their items. The same answer again changes nothing.

    A removal counts at once and is final; a confirmation can become one while the review runs. What is not this
    person's to answer (any more) is passed over. Raises ReviewIsOver, InvalidInput.
    """
    if any(one.decision not in ANSWERS or len(one.note) > 500 for one in answers.values()):
        raise InvalidInput("An answer is “confirm” or “remove”; a note has at most 500 characters.")
    counts = dict.fromkeys(("confirmed", "removed"), 0)
    with transaction.atomic():
        # Locked: the end of the review waits, or is seen.
        if not AccessReview.objects.select_for_update().get(pk=review.pk).is_running:
            raise ReviewClosed
        mine = querysets.review_items_of(actor).filter(review=review, pk__in=list(answers))
        rows = ReviewItem.objects.filter(pk__in=mine.values("pk")).select_for_update(of=("self",)).order_by("pk")
        rows = rows.select_related("share__connection", "share__person", "share__team")
        for item in without_tokens(rows, "share__connection"):
            done = _answer(review, item, answers[item.pk], actor=actor, now=now)
            if done:
                counts[done] += 1
    return AnswerCounts(**counts, passed_over=len(answers) - sum(counts.values()))


def _answer(review: AccessReview, item: ReviewItem, wanted: Answer, *, actor: User, now: datetime) -> str:
    share = item.share
    if not item.can_be_answered or share is None or not share.is_active(now):
        return ""
    if (item.decision, item.note) == (wanted.decision, wanted.note):
        return ""
    values = {
        "decision": wanted.decision,
        "note": wanted.note,
        "decided_level": share.level,
        "decided_by": actor,
        "decided_by_name": display_name(actor),
        "decided_at": now,
    }
    if wanted.decision == Decision.REMOVED:
        values["ended_at"] = now
        # Taken away by somebody else at this moment: then nobody says that the review did it.
        if not sharing_service.end_for_reason(share, end_reason(review, wanted.note), actor=actor, now=now):
            return ""
    ReviewItem.objects.filter(pk=item.pk).update(**values)
    changes = {"review": f"{review} ({review.pk})", "with": item.with_name, "level": share.level, "note": wanted.note}
    verb = "confirmed" if wanted.decision == Decision.CONFIRMED else "removed"
    audit.record(AuditAction(f"access_review.share_{verb}"), share.connection, actor=actor, changes=changes, at=now)
    return verb


def end_reason(review: AccessReview, note: str = "") -> str:
    """What the audit trail says about a share that a review has ended."""
    return f"Access review “{review}” ({review.pk})" + (f": {note}" if note else "")


# --- Cancelling, and the plan ---------------------------------------------------------------------


def cancel(review: AccessReview, *, actor: User, now: datetime) -> None:
    """Stop a review: what is not answered stays as it is. Doing it twice is harmless. Raises NotAllowed, ReviewIsOver."""
    roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    with transaction.atomic():
        current = AccessReview.objects.select_for_update().get(pk=review.pk)
        if current.cancelled_at is not None:
            return
        if current.closed_at is not None:
            raise ReviewClosed
        # Before it is marked: afterwards nobody has anything left to answer.
        notify_owners(
            current,
            "cancelled",
            now=now,
            subject=f"Nothing left to confirm: {current.name} was cancelled",
            paragraphs=(f"{actor} has cancelled this review.", "No share ends because of it."),
        )
        AccessReview.objects.filter(pk=review.pk).update(cancelled_at=now, cancelled_by_name=display_name(actor))
        audit.record(
            AuditAction.ACCESS_REVIEW_CANCELLED, current, actor=actor, changes=dict(count_decisions(current)), at=now
        )


def get_schedule() -> ReviewPlan:
    """Whether a review starts by itself every quarter."""
    return ReviewPlan.objects.first() or ReviewPlan(pk=1)


def set_schedule(*, is_on: bool, days: int, actor: User, now: datetime) -> None:
    """Switch the quarterly review on or off. It starts with the next quarter. Raises NotAllowed, InvalidInput."""
    roles.require(permissions.can_manage_reviews(actor), action="Ask an IT admin.")
    if not LEAST_DAYS <= days <= MOST_DAYS:
        raise InvalidInput(f"Between {LEAST_DAYS} and {MOST_DAYS} days.", field="days")
    with transaction.atomic():
        current = ReviewPlan.objects.select_for_update().first() or ReviewPlan(pk=1)
        changes = audit.changed_fields(current, {"is_on": is_on, "days": days})
        if not changes:
            return
        values: dict[str, object] = {"is_on": is_on, "days": days}
        if is_on and not current.is_on:
            values["quarter"] = quarter(now)
        made, _ = ReviewPlan.objects.update_or_create(pk=1, defaults=values)
        audit.record(AuditAction.ACCESS_REVIEW_PLANNED, made, actor=actor, changes=changes, at=now)


def quarter(moment: datetime) -> str:
    """The quarter of a moment, like "2026-Q4"."""
    return f"{moment.year}-Q{(moment.month + 2) // 3}"


# --- Numbers --------------------------------------------------------------------------------------


def count_decisions(review: AccessReview) -> Iterator[tuple[str, int]]:
    """How many items there are of each decision, in the order of Decision."""
    rows = review.items.order_by().values_list("decision").annotate(count=Count("pk"))
    counts: dict[str, int] = dict(rows)
    return ((decision.value, counts.get(decision.value, 0)) for decision in Decision)


def tasks_of(user: User) -> list[tuple[AccessReview, int]]:
    """The running reviews in which this person has something left to answer, and how much, the most urgent first."""
    running = Q(review__closed_at=None, review__cancelled_at=None, decision=Decision.OPEN, share__ended_at=None)
    mine = querysets.review_items_of(user).filter(running, share__isnull=False)
    counts = dict(mine.order_by().values_list("review").annotate(count=Count("pk")))
    reviews: Iterable[AccessReview] = AccessReview.objects.filter(pk__in=counts).order_by("due_at", "pk")
    return [(review, counts[review.pk]) for review in reviews] if counts else []


def events_of(review: AccessReview) -> QuerySet[AuditEvent]:
    """The audit events of the review itself; those of each decision stand with the connections."""
    return AuditEvent.objects.filter(target_type="AccessReview", target_id=str(review.pk)).order_by("pk")
