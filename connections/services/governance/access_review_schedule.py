"""What happens to access reviews by itself: started by the plan, reminded of, and at the end closed.

Each step is one conditional change in a transaction of its own, so ticks may overlap, come late or die half-way.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from connections import audit
from connections.models import AccessReview, ReviewItem, ReviewPlan, TeamMember, User
from connections.models.audit import AuditAction
from connections.models.connections import without_tokens
from connections.models.reviews import NOTICE
from connections.services.governance import access_reviews
from connections.services.notifications import alerts
from connections.services.sharing import shares

Decision = ReviewItem.Decision

HALF, LAST = 1, 2  # AccessReview.reminded
AT_ONCE = 100  # shares that are ended in one transaction


def run_due(now: datetime) -> None:
    """Do what is due for all reviews."""
    start_planned(now)
    running = AccessReview.objects.filter(closed_at=None, cancelled_at=None)
    for review in running.order_by("due_at", "pk"):
        close_ended_items(review, now=now)
        reassign_owners(review, now=now)
        remind(review, now=now)
        if review.may_end_shares(now):
            end_unanswered(review, now=now)
        close(review, now=now)


def start_planned(now: datetime) -> AccessReview | None:
    """Start the quarterly review if it is switched on and this quarter has none yet."""
    quarter = access_reviews.quarter(now)
    with transaction.atomic():
        due = ReviewPlan.objects.filter(is_on=True).exclude(quarter=quarter)
        plan = due.select_for_update().first()
        # Of two ticks one moves the quarter forward.
        if plan is None or not due.filter(pk=plan.pk).update(quarter=quarter):
            return None
        days = timedelta(days=plan.days)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return access_reviews.start(f"Quarterly review {quarter}", due_at=midnight + days, actor=None, now=now)


# --- While it runs --------------------------------------------------------------------------------


def close_ended_items(review: AccessReview, *, now: datetime) -> None:
    """Close what has ended by itself: shares removed, past their date, or gone with their connection."""
    ended = Q(share=None) | Q(share__ended_at__isnull=False) | Q(share__until__lte=now)
    gone = review.items.filter(ended, decision=Decision.OPEN).values("pk")
    ReviewItem.objects.filter(pk__in=gone, decision=Decision.OPEN).update(decision=Decision.GONE, decided_at=now)


def reassign_owners(review: AccessReview, *, now: datetime) -> None:
    """Connections that were handed over: their new owners answer from now on, and are told so."""
    moved = review.items.filter(decision=Decision.OPEN).exclude(owner=F("connection__owner"))
    found = list(without_tokens(moved.filter(connection__isnull=False).select_related("connection__owner")))
    if not found:
        return
    with transaction.atomic():
        for item in found:
            assert item.connection is not None  # noqa: S101 - filtered
            owner = item.connection.owner
            ReviewItem.objects.filter(pk=item.pk).update(owner=owner, owner_name=access_reviews.display_name(owner))
        access_reviews.ask_owners(review, now=now)


def remind(review: AccessReview, *, now: datetime) -> None:
    """The reminder at half time, and the warning a day before the end; each once, a missed first one not at all."""
    step = LAST if now >= review.due_at - NOTICE else HALF if now >= review.half_time else 0
    with transaction.atomic():
        values = {"reminded": step, **({"warned_at": now} if step == LAST else {})}
        if not AccessReview.objects.filter(pk=review.pk, reminded__lt=step).update(**values):
            return
        ends = access_reviews.format_day(review.last_day)
        access_reviews.notify_owners(
            review,
            f"reminder-{step}",
            now=now,
            subject=f"Still to confirm until {ends}: {review.name}",
            paragraphs=(
                "Some shares of your connections are not answered yet.",
                f"What is not answered by the end of {ends} stops working for whoever uses it.",
            ),
            tone="warning",
        )
        if step == LAST:
            _warn_users(review, now=now)
    for name, value in values.items():
        setattr(review, name, value)


def _warn_users(review: AccessReview, *, now: datetime) -> None:
    """Those it is shared with can still speak to the owner."""
    endangered: dict[int, list[str]] = {}
    items = review.items.filter(decision=Decision.OPEN, share__isnull=False).order_by("connection_name", "pk")
    members: dict[int, list[int]] = {}
    teams = items.filter(share__team__isnull=False).values("share__team")
    for team, member in TeamMember.objects.filter(team__in=teams).values_list("team", "user"):
        members.setdefault(team, []).append(member)
    for name, owner, person, team in items.values_list(
        "connection_name", "owner_name", "share__person", "share__team"
    ).iterator():
        for one in members.get(team, []) if team else [person]:
            endangered.setdefault(one, []).append(f"{name} (of {owner.partition(' <')[0]})")
    users = User.objects.filter(pk__in=endangered).select_related("alert_choice", "responsible__alert_choice")
    for user in users.order_by("pk").iterator():
        contact = user.contact
        if contact is not None:
            # One for each account: whoever is responsible for several hears of each.
            about = _about(review, f"warning-{user.pk}")
            alerts.notify([contact], _warning(review, user, endangered[user.pk]), about=about, now=now)


def _warning(review: AccessReview, user: User, lines: list[str]) -> alerts.Message:
    who = f"the service account {user} uses" if user.is_service else "you use"
    return alerts.Message(
        subject=f"What {who} may end on {access_reviews.format_day(review.last_day)}",
        paragraphs=(
            "Owners are asked to confirm who uses their connections. These have not been confirmed for you yet.",
            "If you still need one, ask its owner to confirm it. Otherwise your access ends, and automations with your "
            "keys get no more tokens of it.",
        ),
        path="/connections/",
        button="Open the connections",
        why="You get this because the connections are shared with you or with a team of yours.",
        lines=tuple(lines),
        lines_label="Not confirmed yet",
        tone="warning",
    )


def _about(review: AccessReview, occasion: str) -> str:
    return f"access-review:{review.pk}:{occasion}"


# --- The end --------------------------------------------------------------------------------------


def end_unanswered(review: AccessReview, *, now: datetime) -> int:
    """End what nobody has answered, some at a time; returns how many shares ended."""
    ended = 0
    # Ends because every item that is looked at is no longer open.
    while pks := list(
        review.items.filter(decision=Decision.OPEN).order_by("pk").values_list("pk", flat=True)[:AT_ONCE]
    ):
        with transaction.atomic():
            if not AccessReview.objects.select_for_update().get(pk=review.pk).is_running:
                return ended
            ended += sum(_end(review, pk, now=now) for pk in pks)
    return ended


def _end(review: AccessReview, pk: int, *, now: datetime) -> bool:
    waiting = ReviewItem.objects.filter(pk=pk, decision=Decision.OPEN)
    found = waiting.select_related("share__connection", "share__person", "share__team")
    item = without_tokens(found, "share__connection").first()
    if item is None:
        return False
    # Whoever moves the item on first has it; an owner's answer may have been quicker.
    if not waiting.update(decision=Decision.EXPIRED, decided_at=now, ended_at=now):
        return False
    why = f"{access_reviews.end_reason(review)}: not answered by {item.owner_name.partition(' <')[0]}"
    if item.share is not None and shares.end_for_reason(item.share, why, actor=None, now=now):
        return True
    ReviewItem.objects.filter(pk=pk).update(decision=Decision.GONE, ended_at=None)
    return False


def close(review: AccessReview, *, now: datetime) -> bool:
    """Close a review in which nothing is open any more; whether it is this call that closed it."""
    with transaction.atomic():
        locked = AccessReview.objects.select_for_update().filter(pk=review.pk, closed_at=None, cancelled_at=None)
        current = locked.first()
        if current is None or current.items.filter(decision=Decision.OPEN).exists():
            return False
        if not locked.update(closed_at=now):
            return False
        counts = dict(access_reviews.count_decisions(current))
        audit.record(AuditAction.ACCESS_REVIEW_CLOSED, current, actor=None, changes=counts, at=now)
        _tell_closed(current, counts, now=now)
    return True


def _tell_closed(review: AccessReview, counts: dict[str, int], *, now: datetime) -> None:
    facts = tuple((str(decision.label), str(counts[decision])) for decision in Decision if decision != Decision.OPEN)
    path = f"/reviews/{review.pk}/"
    report = alerts.Message(
        subject=f"{review.name} is closed",
        paragraphs=("Every share is answered or has ended. The report cannot change any more.",),
        path=path,
        button="Open the report",
        why="You get this because you are an IT admin.",
        facts=facts,
        tone="ok",
    )
    alerts.notify_it_admins(report, about=_about(review, "closed"), now=now)
    losers = review.items.filter(decision=Decision.EXPIRED).values("owner")
    ended = alerts.Message(
        subject=f"Shares of your connections have ended: {review.name}",
        paragraphs=("You did not answer for them, so they ended. Whoever still needs one: share it again.",),
        path=path,
        button="See which",
        why="You get this because you own these connections.",
        tone="warning",
    )
    owners = User.objects.filter(pk__in=losers).select_related("alert_choice").order_by("pk")
    for some in access_reviews.batches(owners, access_reviews.BATCH):
        alerts.notify(some, ended, about=_about(review, "ended"), now=now)
