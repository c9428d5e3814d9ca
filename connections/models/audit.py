"""The audit trail."""

from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.utils import timezone


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
            self._refuse()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the trail is append-only."""
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise TypeError("The audit trail is append-only.")
