from datetime import datetime

from django.db import models
from django.db.models import Q

from connections.models.sharing import Share


class AccessPeriod(models.Model):
    """A period in which someone owned a connection, a share or membership was active, or an account was disabled.

    Stores IDs and names instead of foreign keys, so that it outlives the objects. The period ends just before
    ``ended_at`` or ``until``, whichever comes first. Written by services.sharing.history.
    """

    class Kind(models.TextChoices):
        OWNER = "owner", "Owner"
        PERSON = "person", "Shared with the person"
        TEAM = "team", "Shared with a team"
        MEMBER = "member", "Member of a team"
        DISABLED = "disabled", "Account disabled or removed"

    kind = models.CharField(max_length=8, choices=Kind)
    connection_id = models.BigIntegerField(null=True)
    connection_name = models.CharField(max_length=120, blank=True)
    person_id = models.BigIntegerField(null=True)
    person_name = models.CharField(max_length=320, blank=True)  # "Name <sign-in name>", as in the audit trail
    team_id = models.BigIntegerField(null=True)
    team_name = models.CharField(max_length=120, blank=True)
    share_id = models.BigIntegerField(null=True)  # a share gets a new period whenever its level or end date changes
    level = models.CharField(max_length=6, choices=Share.Level, blank=True)
    started_at = models.DateTimeField()
    until = models.DateTimeField(null=True)  # the planned end of a share
    ended_at = models.DateTimeField(null=True)
    started_by_id = models.BigIntegerField(null=True)
    started_by_name = models.CharField(max_length=320, blank=True)
    ended_by_id = models.BigIntegerField(null=True)
    ended_by_name = models.CharField(max_length=320, blank=True)

    class Meta:
        ordering = ("started_at", "pk")
        constraints = (
            models.CheckConstraint(
                condition=Q(kind="owner", connection_id__isnull=False, person_id__isnull=False)
                | Q(kind="person", connection_id__isnull=False, person_id__isnull=False, share_id__isnull=False)
                | Q(kind="team", connection_id__isnull=False, team_id__isnull=False, share_id__isnull=False)
                | Q(kind="member", team_id__isnull=False, person_id__isnull=False)
                | Q(kind="disabled", person_id__isnull=False),
                name="access_period_names_its_parts",
            ),
            models.UniqueConstraint(
                fields=("connection_id",), condition=Q(kind="owner", ended_at=None), name="access_one_owner"
            ),
            models.UniqueConstraint(fields=("share_id",), condition=Q(ended_at=None), name="access_share_once"),
            models.UniqueConstraint(
                fields=("team_id", "person_id"), condition=Q(kind="member", ended_at=None), name="access_member_once"
            ),
            models.UniqueConstraint(
                fields=("person_id",), condition=Q(kind="disabled", ended_at=None), name="access_disabled_once"
            ),
        )
        indexes = (
            models.Index(fields=("connection_id", "started_at"), name="access_by_connection"),
            models.Index(fields=("person_id", "started_at"), name="access_by_person"),
            models.Index(fields=("team_id", "started_at"), name="access_by_team"),
        )

    def __str__(self) -> str:
        parts = (self.person_name, self.team_name and f"team {self.team_name}", self.connection_name)
        return f"{self.get_kind_display()}: {', '.join(part for part in parts if part)}"

    @property
    def end(self) -> datetime | None:
        """When the period ended or is planned to end; None if it is open-ended."""
        return min((moment for moment in (self.until, self.ended_at) if moment is not None), default=None)
