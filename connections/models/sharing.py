from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.connections import Connection


class Team(models.Model):
    """A group of people. IT admins manage its members, or it follows an Entra group."""

    name = models.CharField(max_length=120, unique=True)
    # The group's object ID, as in the "groups" claim. Members are updated when they sign in.
    entra_group = models.CharField("Entra group", max_length=120, blank=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="TeamMember", related_name="teams")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(fields=("entra_group",), condition=~Q(entra_group=""), name="entra_group_once"),
        )

    def __str__(self) -> str:
        return self.name


class TeamMember(models.Model):
    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    added_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("user__first_name", "user__username", "pk")
        constraints = (models.UniqueConstraint(fields=("team", "user"), name="member_once"),)

    def __str__(self) -> str:
        return f"{self.user} in {self.team}"


class ShareQuerySet(models.QuerySet["Share"]):
    def active(self, now: datetime | None = None) -> "ShareQuerySet":
        return self.filter(Q(until=None) | Q(until__gt=now or timezone.now()), ended_at=None)


class Share(models.Model):
    """The right to use or manage a connection, optionally until a date. It is kept after it ends, with ``ended_at``."""

    class Level(models.TextChoices):
        USE = "use", "Can use: request tokens and view status"
        MANAGE = "manage", "Can manage: also sign in again and share"

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="shares")
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="shares")
    team = models.ForeignKey(Team, models.CASCADE, null=True, related_name="shares")
    level = models.CharField(max_length=6, choices=Level, default=Level.USE)
    until = models.DateTimeField(null=True, blank=True)
    # Why an IT admin took emergency access to someone else's connection. Empty for ordinary shares.
    emergency_reason = models.TextField(blank=True, default="", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    ended_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ShareQuerySet.as_manager()

    class Meta:
        ordering = ("created_at", "pk")
        constraints = (
            models.CheckConstraint(
                condition=Q(person__isnull=False, team=None) | Q(person=None, team__isnull=False),
                name="share_is_with_a_person_or_a_team",
            ),
            models.UniqueConstraint(
                fields=("connection", "person"), condition=Q(ended_at=None), name="shared_once_with_a_person"
            ),
            models.UniqueConstraint(
                fields=("connection", "team"), condition=Q(ended_at=None), name="shared_once_with_a_team"
            ),
        )
        indexes = (
            models.Index(fields=("person", "connection"), condition=Q(ended_at=None), name="share_by_person"),
            models.Index(fields=("team", "connection"), condition=Q(ended_at=None), name="share_by_team"),
            # With the id, because very many may end at the end of the same day.
            models.Index(fields=("until", "id"), condition=Q(ended_at=None, until__isnull=False), name="share_ending"),
        )

    def __str__(self) -> str:
        return f"{self.connection} with {self.person or self.team}"

    def is_active(self, now: datetime | None = None) -> bool:
        return self.ended_at is None and (self.until is None or self.until > (now or timezone.now()))
