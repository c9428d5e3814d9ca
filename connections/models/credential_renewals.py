import uuid

from django.db import models
from django.db.models import Q

from connections.models.app_registrations import AppCredential, AppRegistration


class CredentialRenewal(models.Model):
    """The renewal of one secret or certificate. It is stored step by step, so that any worker can resume it."""

    class Step(models.TextChoices):
        ADD = "add", "Adding the new credential in Entra"
        TRY = "try", "Waiting until Microsoft accepts it"
        SETTLE = "settle", "Using it, with the old one in reserve"
        REMOVE = "remove", "Removing the old credential"
        UNDO = "undo", "Removing the new credential again"
        DONE = "done", "Renewed"
        FAILED = "failed", "Failed"

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="renewals")
    old = models.ForeignKey(AppCredential, models.CASCADE, related_name="+")
    # For a secret, null until Microsoft has issued it.
    new = models.ForeignKey(AppCredential, models.CASCADE, null=True, related_name="+")
    # Part of the new credential's display name in Entra, which helps to find a credential that was never stored here.
    reference = models.UUIDField(default=uuid.uuid4, editable=False)
    step = models.CharField(max_length=10, choices=Step, default=Step.ADD)
    started_at = models.DateTimeField()
    step_started_at = models.DateTimeField()
    # When the request to add it was last sent. It may have succeeded even if no response was stored.
    sent_at = models.DateTimeField(null=True)
    # When the next step is due. A worker claims the renewal by moving this time forward.
    due_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    # Why the renewal failed, and what to do about it.
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)

    class Meta:
        ordering = ("-started_at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("app_registration",), condition=Q(finished_at=None), name="one_renewal_at_a_time"
            ),
        )
        indexes = (models.Index(fields=("due_at",), condition=Q(finished_at=None), name="renewal_due"),)

    def __str__(self) -> str:
        return f"Renewal of {self.old}"
