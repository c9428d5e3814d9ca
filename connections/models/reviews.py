"""Access reviews. Owners confirm who else uses their connections, and unconfirmed shares end."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.app_registrations import AppRegistration
from connections.models.connections import Connection
from connections.models.sharing import Share
from connections.models.tenants import Tenant

NOTICE = timedelta(days=1)  # owners and recipients of shares are warned this long before the due date
LEAST_NOTICE = timedelta(hours=12)  # after a late warning, shares end no sooner than this


class AccessReview(models.Model):
    """A review of the shares that were active when it started. Never changes once closed or cancelled."""

    name = models.CharField(max_length=120)
    # The scope: all connections, or those of the app registration or tenant. ``scope_name`` describes it.
    app_registration = models.ForeignKey(AppRegistration, models.SET_NULL, null=True, related_name="+")
    tenant = models.ForeignKey(Tenant, models.SET_NULL, null=True, related_name="+")
    scope_name = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    started_by_name = models.CharField(max_length=320)
    due_at = models.DateTimeField()  # the end of the last day
    reminded = models.PositiveSmallIntegerField(default=0)  # how many of its two reminders were sent
    warned_at = models.DateTimeField(null=True)  # when the last reminder (the warning) was sent
    cancelled_at = models.DateTimeField(null=True)
    cancelled_by_name = models.CharField(max_length=320, blank=True)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-started_at", "-pk")
        constraints = (
            models.CheckConstraint(condition=Q(closed_at=None) | Q(cancelled_at=None), name="review_ends_one_way"),
        )
        indexes = (
            models.Index(fields=("due_at",), condition=Q(closed_at=None, cancelled_at=None), name="review_running"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_running(self) -> bool:
        return self.closed_at is None and self.cancelled_at is None

    @property
    def half_time(self) -> datetime:
        return self.started_at + (self.due_at - self.started_at) / 2

    @property
    def last_day(self) -> datetime:
        return self.due_at - timedelta(seconds=1)

    def may_end_shares(self, now: datetime) -> bool:
        return now >= self.due_at and self.warned_at is not None and now >= self.warned_at + LEAST_NOTICE


class ReviewItem(models.Model):
    """A share as it was when the review started, and the decision about it."""

    class Decision(models.TextChoices):
        OPEN = "open", "Not answered"
        CONFIRMED = "confirmed", "Confirmed"
        REMOVED = "removed", "Removed"
        EXPIRED = "expired", "Removed without answer"
        GONE = "gone", "Removed before the review"

    review = models.ForeignKey(AccessReview, models.CASCADE, related_name="items")
    share = models.ForeignKey(Share, models.SET_NULL, null=True, related_name="+")
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="review_items")
    connection_name = models.CharField(max_length=120)
    app_name = models.CharField(max_length=120)
    # The person who decides: the connection's owner, updated if ownership is transferred during the review.
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    owner_name = models.CharField(max_length=320)
    is_team = models.BooleanField()
    with_name = models.CharField(max_length=320)
    level = models.CharField(max_length=6, choices=Share.Level)
    until = models.DateTimeField(null=True)
    given_by_name = models.CharField(max_length=320, blank=True)
    given_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)  # last token request by the recipient or a team member

    decision = models.CharField(max_length=10, choices=Decision, default=Decision.OPEN)
    # The confirmed level. It may differ, because the share may have changed since the review started.
    decided_level = models.CharField(max_length=6, choices=Share.Level, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320, blank=True)
    decided_at = models.DateTimeField(null=True)
    note = models.CharField(max_length=500, blank=True)
    ended_at = models.DateTimeField(null=True)  # when the review ended the share

    class Meta:
        ordering = ("connection_name", "pk")
        constraints = (models.UniqueConstraint(fields=("review", "share"), name="share_once_per_review"),)
        indexes = (
            models.Index(fields=("review", "connection_name"), name="review_items_in_order"),
            models.Index(fields=("review", "owner"), name="review_items_by_owner"),
            models.Index(fields=("review", "owner"), condition=Q(decision="open"), name="review_items_unanswered"),
        )

    def __str__(self) -> str:
        return f"{self.connection_name} with {self.with_name}"

    @property
    def can_be_answered(self) -> bool:
        """Whether the decision may still be made or changed. Shares that have ended are not restored."""
        return self.decision in (self.Decision.OPEN, self.Decision.CONFIRMED)


class ReviewPlan(models.Model):
    """Whether a review of all connections starts automatically every quarter. A single row; without it, none starts."""

    is_on = models.BooleanField(default=False)
    days = models.PositiveSmallIntegerField(default=21)  # how long an automatic review lasts
    # The last quarter that needs no automatic review: that of the last review, or in which the schedule was enabled.
    quarter = models.CharField(max_length=7, blank=True)

    def __str__(self) -> str:
        return "Quarterly access review"
