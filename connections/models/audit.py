"""The audit trail: events, denials that repeat, and the views people save."""

from __future__ import annotations

from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.utils import timezone


def _refuse() -> NoReturn:
    raise TypeError("The audit trail is append-only.")


class AppendOnly(models.QuerySet[Any]):
    """Rows that are written once. The database refuses the rest, too: see the migration audit_guards."""

    def update(self, **values: Any) -> NoReturn:
        """Refused."""
        _refuse()

    def bulk_update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        _refuse()

    def delete(self) -> NoReturn:
        """Refused; old rows go through services.audit_retention alone."""
        _refuse()


class AuditEvent(models.Model):
    """Who did what to what. Append-only; names are frozen in, so it outlives what it points to."""

    class Outcome(models.TextChoices):
        """How the action ended."""

        DONE = "done", "Done"
        DENIED = "denied", "Denied"
        FAILED = "failed", "Failed"

    at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=60)  # noun.verb, for example connection.reconnected
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.DONE)
    # Null: the portal itself (sweep, demo seed) or somebody who has been deleted; actor_name tells which.
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="audit_events", db_constraint=False
    )
    # The actor's id for ever: this is what is sealed, as the one above goes when the person does.
    actor_ref = models.BigIntegerField(null=True, editable=False)
    actor_name = models.CharField(max_length=320)
    target_type = models.CharField(max_length=40)  # the model's glossary name, for example Connection
    target_id = models.CharField(max_length=40, blank=True)
    target_name = models.CharField(max_length=320)
    # What changed: {field: [before, after]} or facts worth keeping. Never a secret.
    changes = models.JSONField(default=dict)
    # The owner of the target at that time; lets owners read the history of their own objects.
    owner_id = models.BigIntegerField(null=True)
    request_id = models.CharField(max_length=36, blank=True)
    address = models.GenericIPAddressField(null=True)

    objects = AppendOnly.as_manager()

    class Meta:
        ordering = ("-pk",)
        indexes = (
            models.Index(fields=("target_type", "target_id", "-id"), name="audit_by_target"),
            models.Index(fields=("actor", "-id"), name="audit_by_actor"),
            models.Index(fields=("action", "-id"), name="audit_by_action"),
            models.Index(fields=("at",), name="audit_by_time"),
        )

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_name} {self.action} {self.target_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; an event that exists is never changed."""
        if not self._state.adding:
            _refuse()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the trail is append-only."""
        _refuse()


class RepeatedDenial(models.Model):
    """How often the same thing was denied to the same person within a minute.

    The first time is an event at once; what follows is counted here and becomes one more event when the minute is over.
    """

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    tried = models.CharField(max_length=100)  # method and URL name, for example "POST connection_disable"
    target_type = models.CharField(max_length=40)
    target_id = models.CharField(max_length=40, blank=True)
    minute = models.DateTimeField()
    event = models.BigIntegerField()  # the first one
    count = models.PositiveIntegerField(default=1)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("person", "tried", "target_type", "target_id", "minute"), name="denial_once_per_minute"
            ),
        )

    def __str__(self) -> str:
        return f"{self.tried}: {self.count} at {self.minute:%Y-%m-%d %H:%M}"


class AuditView(models.Model):
    """A filter of the audit trail that somebody wants to open again. Each person has their own."""

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="audit_views")
    name = models.CharField(max_length=120)
    query = models.CharField(max_length=1000, blank=True)  # the filter as a query string
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (models.UniqueConstraint(fields=("person", "name"), name="audit_view_name_once_per_person"),)

    def __str__(self) -> str:
        return self.name
