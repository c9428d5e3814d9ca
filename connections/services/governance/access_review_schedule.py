"""The automatic steps of access reviews. Each step is a conditional update in its own transaction."""

from dataclasses import replace
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from connections import audit
from connections.models import AccessReview, ReviewItem, ReviewPlan, User
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.models.connections import without_tokens
from connections.models.reviews import NOTICE
from connections.services.governance import access_reviews
from connections.services.notifications import alerts
from connections.services.sharing import shares

Decision = ReviewItem.Decision

HALF, LAST = 1, 2  # values of AccessReview.reminded
AT_ONCE = 100  # shares ended in one transaction


def run_due(now: datetime) -> None:
    _start_planned(now)
    running = AccessReview.objects.filter(closed_at=None, cancelled_at=None)
    for review in running.order_by("due_at", "pk"):
        _close_ended_items(review, now=now)
        _reassign_owners(review, now=now)
        _remind(review, now=now)
        if review.may_end_shares(now):
            _end_unanswered(review, now=now)
        _close(review, now=now)


def _start_planned(now: datetime) -> None:
    quarter = access_reviews.quarter(now)
    with transaction.atomic():
        due_plans = ReviewPlan.objects.filter(is_on=True).exclude(quarter=quarter)
        plan = due_plans.select_for_update().first()
        # The update checks the condition again, so that only one of two simultaneous runs starts the review.
        if plan is None or not due_plans.filter(pk=plan.pk).update(quarter=quarter):
            return
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        due_at = midnight + timedelta(days=plan.days)
        access_reviews.start(f"Quarterly review {quarter}", due_at=due_at, actor=None, now=now)


def _close_ended_items(review: AccessReview, *, now: datetime) -> None:
    """Close the items of shares that ended without an answer: removed, expired, or deleted with their connection."""
    ended = Q(share=None) | Q(share__ended_at__isnull=False) | Q(share__until__lte=now)
    ended_items = review.items.filter(ended, decision=Decision.OPEN).values("pk")
    ReviewItem.objects.filter(pk__in=ended_items, decision=Decision.OPEN).update(decision=Decision.GONE, decided_at=now)


def _reassign_owners(review: AccessReview, *, now: datetime) -> None:
    """Ask the new owners of transferred connections."""
    moved = review.items.filter(decision=Decision.OPEN).exclude(owner=F("connection__owner"))
    items = list(without_tokens(moved.filter(connection__isnull=False).select_related("connection__owner")))
    if not items:
        return
    with transaction.atomic():
        for item in items:
            assert item.connection is not None  # noqa: S101 - filtered
            owner = item.connection.owner
            ReviewItem.objects.filter(pk=item.pk).update(owner=owner, owner_name=audit.recorded_name(owner))
        access_reviews.ask_owners(review, now=now)


def _remind(review: AccessReview, *, now: datetime) -> None:
    """Send the reminder halfway through and the warning a day before the end, each once.

    A reminder that was missed is not sent later.
    """
    step = LAST if now >= review.due_at - NOTICE else HALF if now >= review.half_time else 0
    with transaction.atomic():
        values = {"reminded": step, **({"warned_at": now} if step == LAST else {})}
        if not AccessReview.objects.filter(pk=review.pk, reminded__lt=step).update(**values):
            return
        last_day = access_reviews.format_day(review.last_day)
        access_reviews.notify_owners(
            review,
            f"reminder-{step}",
            now=now,
            subject=f"Reminder: access review “{review.name}” is due on {last_day}",
            paragraphs=(
                "You haven't reviewed all shares of your connections yet.",
                f"Unanswered access is removed after {last_day}.",
            ),
            tone="warning",
        )
        if step == LAST:
            _warn_users(review, now=now)
    set_columns(review, values)


def _warn_users(review: AccessReview, *, now: datetime) -> None:
    """Warn the people who would lose access while there is still time to speak to the owner."""
    lines: dict[int, list[str]] = {}
    items = review.items.filter(decision=Decision.OPEN, share__isnull=False).order_by("connection_name", "pk")
    members = access_reviews.members_of(items.filter(share__team__isnull=False).values("share__team"))
    columns = ("connection_name", "owner_name", "share__person", "share__team")
    for name, owner, person, team in items.values_list(*columns).iterator():
        for user_id in members.get(team, []) if team else [person]:
            lines.setdefault(user_id, []).append(f"{name} (owner: {owner.partition(' <')[0]})")
    users = User.objects.filter(pk__in=lines).select_related("alert_choice", "responsible__alert_choice")
    for user in users.order_by("pk").iterator():
        contact = user.contact
        if contact is None:
            continue
        # One message per account, even if one person is responsible for several.
        about = f"access-review:{review.pk}:warning-{user.pk}"
        name = f"Access of the service account {user}" if user.is_service else "Your access"
        message = alerts.Message(
            subject=f"{name} may be removed after {access_reviews.format_day(review.last_day)}",
            paragraphs=(
                "Owners are reviewing who can use their connections. Your access to these isn't confirmed yet.",
                "If you still need a connection, ask its owner to confirm your access. Otherwise your access is removed, "
                "and your API keys get no more tokens for it.",
            ),
            path="/connections/",
            button="View connections",
            why="You received this email because the connections are shared with you or one of your teams.",
            lines=tuple(lines[user.pk]),
            lines_label="Not confirmed yet",
            tone="warning",
        )
        alerts.notify([contact], message, about=about, now=now)


def _end_unanswered(review: AccessReview, *, now: datetime) -> None:
    # The loop ends because handled items are no longer open.
    while pks := list(
        review.items.filter(decision=Decision.OPEN).order_by("pk").values_list("pk", flat=True)[:AT_ONCE]
    ):
        with transaction.atomic():
            if not AccessReview.objects.select_for_update().get(pk=review.pk).is_running:
                return
            for pk in pks:
                _end_share(review, pk, now=now)


def _end_share(review: AccessReview, pk: int, *, now: datetime) -> None:
    open_item = ReviewItem.objects.filter(pk=pk, decision=Decision.OPEN)
    related = open_item.select_related("share__connection", "share__person", "share__team")
    item = without_tokens(related, "share__connection").first()
    # Update the item only while it is open, because its owner may have answered first.
    if item is None or not open_item.update(decision=Decision.EXPIRED, decided_at=now, ended_at=now):
        return
    why = f"{access_reviews.end_reason(review)}: not answered by {item.owner_name.partition(' <')[0]}"
    if item.share is None or not shares.end_for_reason(item.share, why, actor=None, now=now):
        ReviewItem.objects.filter(pk=pk).update(decision=Decision.GONE, ended_at=None)


def _close(review: AccessReview, *, now: datetime) -> None:
    with transaction.atomic():
        locked = AccessReview.objects.select_for_update().filter(pk=review.pk, closed_at=None, cancelled_at=None)
        current = locked.first()
        if current is None or current.items.filter(decision=Decision.OPEN).exists():
            return
        # The update checks the condition again, because not every database has row locks.
        if locked.update(closed_at=now):
            counts = dict(access_reviews.count_decisions(current))
            audit.record(AuditAction.ACCESS_REVIEW_CLOSED, current, actor=None, changes=counts, at=now)
            _notify_closed(current, counts, now=now)


def _notify_closed(review: AccessReview, counts: dict[str, int], *, now: datetime) -> None:
    report = alerts.Message(
        subject=f"Access review “{review.name}” is closed",
        paragraphs=("All shares are reviewed or removed. The report is final.",),
        path=f"/reviews/{review.pk}/",
        button="View report",
        why="You received this email because you're an IT admin.",
        facts=tuple((str(decision.label), str(counts[decision])) for decision in Decision if decision != Decision.OPEN),
        tone="ok",
    )
    alerts.notify_it_admins(report, about=f"access-review:{review.pk}:closed", now=now)
    ended = replace(
        report,
        subject=f"Access to your connections was removed: {review.name}",
        paragraphs=(
            "You didn't review these shares, so access was removed. Share a connection again if someone still needs it.",
        ),
        button="View shares",
        why="You received this email because you own these connections.",
        facts=(),
        tone="warning",
    )
    expired = review.items.filter(decision=Decision.EXPIRED)
    owners = User.objects.filter(pk__in=expired.values("owner")).select_related("alert_choice").order_by("pk")
    for batch in access_reviews.batches(owners):
        alerts.notify(batch, ended, about=f"access-review:{review.pk}:ended", now=now)
