"""What proves that the audit trail was not altered: seals, where they were published, and looks at the whole chain."""

from __future__ import annotations

from typing import Any, NoReturn

from django.conf import settings
from django.db import models

from connections.models.audit import AppendOnly


class AuditSeal(models.Model):
    """A batch of events and token hand-outs, sealed; each seal holds the hash of the one before. docs/audit.md."""

    number = models.BigIntegerField(primary_key=True)  # 1, 2, 3 … without gaps
    # Events with an id above the first and up to the second belong to this seal; together seals leave no id out.
    events_after = models.BigIntegerField()
    events_upto = models.BigIntegerField()
    events_count = models.PositiveIntegerField()
    events_hash = models.CharField(max_length=64)  # SHA-256 of the events' lines, hex
    # Token hand-outs carry the number of their seal.
    fetches_count = models.PositiveIntegerField()
    fetches_hash = models.CharField(max_length=64)
    # The times of the earliest and the latest of both.
    covers_from = models.DateTimeField()
    covers_until = models.DateTimeField()
    summary = models.JSONField()  # {action: how many}; all that is left when retention has removed the rows
    marks = models.BinaryField()  # a short digest of every row: tells which one is wrong when the hashes do not fit
    sealed_at = models.DateTimeField()
    previous_hash = models.CharField(max_length=64, unique=True)  # unique: two sealers cannot fork the chain
    hash = models.CharField(max_length=64, unique=True)

    objects = AppendOnly.as_manager()

    class Meta:
        ordering = ("-number",)
        indexes = (models.Index(fields=("events_upto", "number"), name="seal_of_event"),)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert; a seal is never changed."""
        if not self._state.adding:
            raise TypeError("A seal is never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("A seal is never removed.")


class AuditSealing(models.Model):
    """One row: what the sealer knows between two looks, and the lock that keeps sealers apart."""

    # Ids up to here belong to transactions that have ended, so no event can appear among them any more.
    final_upto = models.BigIntegerField(default=0)
    # The next such id, and the transactions that were open when it was the newest (PostgreSQL's virtual ids).
    pending_upto = models.BigIntegerField(null=True)
    pending_transactions = models.JSONField(default=list)
    # On SQLite the one way to remove old rows; true only inside the transaction of services.audit_retention.
    retention_open = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"final up to {self.final_upto}"


class SealPublication(models.Model):
    """How far the seals have been published at one place outside the database."""

    class Place(models.TextChoices):
        """Where to."""

        FILE = "file", "File"
        WEBHOOK = "webhook", "Webhook"
        LOG = "log", "Log"

    place = models.CharField(max_length=10, choices=Place, primary_key=True)
    upto = models.BigIntegerField(default=0)  # number of the last seal that certainly arrived
    published_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)  # failed ones since then
    next_attempt_at = models.DateTimeField(null=True)  # also a lease while somebody is at it
    last_error = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"{self.get_place_display()} up to {self.upto}"


class AuditVerification(models.Model):
    """One look at the whole chain: asked for on a page or the console, carried out by a worker, resumed if it dies."""

    class State(models.TextChoices):
        """How far it is."""

        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        INTACT = "intact", "Intact"
        BROKEN = "broken", "Broken"

    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    asked_by_name = models.CharField(max_length=320)
    asked_at = models.DateTimeField()
    claimed_until = models.DateTimeField(null=True)  # a worker has it until then
    finished_at = models.DateTimeField(null=True)
    upto = models.BigIntegerField(default=0)  # the newest seal when it began; 0: not begun
    head = models.CharField(max_length=64, blank=True)  # that seal's hash
    checked = models.BigIntegerField(default=0)  # the last seal that was looked at
    rows = models.BigIntegerField(default=0)  # events and token hand-outs that were looked at
    unsealed = models.BigIntegerField(default=0)  # rows no seal covers yet
    findings = models.JSONField(default=list)  # [{seal, kind, what}], the first broken seal first

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.get_state_display()} at seal {self.checked} of {self.upto}"
