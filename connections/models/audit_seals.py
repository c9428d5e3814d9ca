from django.conf import settings
from django.db import models

from connections.models.audit import AppendOnly


class AuditSeal(AppendOnly):
    """The signed hash of a batch of events and token requests, chained to the previous seal. See docs/audit.md."""

    number = models.BigIntegerField(primary_key=True)  # 1, 2, 3 … without gaps
    # The seal covers the events with IDs above ``events_after``, up to ``events_upto``. There are no gaps between
    # seals.
    events_after = models.BigIntegerField()
    events_upto = models.BigIntegerField()
    events_count = models.PositiveIntegerField()
    events_hash = models.CharField(max_length=64)  # SHA-256 of the events' lines, hex
    fetches_count = models.PositiveIntegerField()  # token requests store the number of their seal
    fetches_hash = models.CharField(max_length=64)
    covers_from = models.DateTimeField()
    covers_until = models.DateTimeField()
    summary = models.JSONField()  # {action: count}; kept after retention has deleted the rows
    marks = models.BinaryField()  # a short digest of every row, which helps to find the altered row if the hash differs
    sealed_at = models.DateTimeField()
    previous_hash = models.CharField(max_length=64, unique=True)  # unique, so that two sealers cannot fork the chain
    hash = models.CharField(max_length=64, unique=True)
    # The following columns are empty in seals from versions before 0.3.
    root = models.CharField(max_length=64, blank=True, default="")  # Merkle root of the lines of all its rows
    key_id = models.CharField(max_length=16, blank=True, default="")  # the key in AUDIT_SEAL_KEYS that signed it
    mac = models.CharField(max_length=64, blank=True, default="")  # HMAC-SHA256 of the hash, in hex
    # Only in a seal that declares a restore: the published seals that were lost, who declared the restore, and why.
    restore = models.JSONField(null=True, default=None)

    class Meta:
        ordering = ("-number",)
        indexes = (models.Index(fields=("events_upto", "number"), name="seal_of_event"),)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class AuditSealing(models.Model):
    """The sealer's state between two runs, in a single row. The row is also the lock between concurrent sealers."""

    # All transactions that could add events up to this ID have ended.
    final_upto = models.BigIntegerField(default=0)
    # The next value of ``final_upto``, and the transactions (PostgreSQL's virtual IDs) that must end before.
    pending_upto = models.BigIntegerField(null=True)
    pending_transactions = models.JSONField(default=list)
    # While true, the triggers on SQLite allow deletion. Only services.operations.retention sets it.
    retention_open = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"final up to {self.final_upto}"


class SealPublication(models.Model):
    """How far the seals, or the rows that they cover, have been sent to one destination outside the database."""

    class Place(models.TextChoices):
        FILE = "file", "File"
        WEBHOOK = "webhook", "Webhook"
        LOG = "log", "Log"
        STREAM = "stream", "Event stream"

    place = models.CharField(max_length=10, choices=Place, primary_key=True)
    upto = models.BigIntegerField(default=0)  # number of the last seal that arrived
    published_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0)  # failed attempts since the last success
    next_attempt_at = models.DateTimeField(null=True)  # also when the lease of the publishing worker ends
    last_error = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"{self.get_place_display()} up to {self.upto}"


class AuditVerification(models.Model):
    """A verification of the chain by a worker. If the worker dies, another one resumes it."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        RUNNING = "running", "Running"
        INTACT = "intact", "Intact"
        BROKEN = "broken", "Broken"

    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    asked_by_name = models.CharField(max_length=320)
    asked_at = models.DateTimeField()
    claimed_until = models.DateTimeField(null=True)  # lease of the worker
    finished_at = models.DateTimeField(null=True)
    upto = models.BigIntegerField(default=0)  # the newest seal when the verification started; 0: not started
    head = models.CharField(max_length=64, blank=True)  # the hash of the seal ``upto``
    checked = models.BigIntegerField(default=0)  # the last seal checked
    rows = models.BigIntegerField(default=0)  # events and token requests checked
    unsealed = models.BigIntegerField(default=0)  # rows that no seal covers yet
    findings = models.JSONField(default=list)  # [{seal, kind, what}], starting with the first broken seal
    since = models.BigIntegerField(default=0)  # the verification began after this seal; 0: it covers the whole chain
    notes = models.JSONField(default=list)  # information for readers that is not a problem, such as restores
    # The portal signs each verification with AUDIT_SEAL_KEYS, so nobody can forge one by writing to the database.
    key_id = models.CharField(max_length=16, blank=True, default="")
    mac = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ("-pk",)

    def __str__(self) -> str:
        return f"{self.get_state_display()} at seal {self.checked} of {self.upto}"
