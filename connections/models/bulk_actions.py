import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class BulkAction(models.Model):
    """One action on many connections. It is prepared and previewed, and a worker then carries it out.

    If the worker dies, another one resumes when the lease ends. Finished connections are not repeated.
    """

    class Action(models.TextChoices):
        CHECK = "check", "Test"
        SHARE = "share", "Share"
        TRANSFER = "transfer", "Transfer ownership"
        ENABLE = "enable", "Enable"
        DISABLE = "disable", "Disable"
        TAG = "tag", "Add tags"
        UNTAG = "untag", "Remove tags"
        REMOVE = "remove", "Remove"

    class State(models.TextChoices):
        DRAFT = "draft", "Not started"
        RUNNING = "running", "In progress"
        DONE = "done", "Done"
        STOPPED = "stopped", "Stopped"

    action = models.CharField(max_length=10, choices=Action)
    # The action's options as plain values: recipients, level and until; owner and keep_grant; or tags.
    options = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=State, default=State.DRAFT)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="bulk_actions")
    # The request ID of the bulk action's events in the audit trail and of its lines in the logs.
    operation = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    address = models.GenericIPAddressField(null=True)  # the client that started it, for the audit events
    created_at = models.DateTimeField()
    is_previewed = models.BooleanField(default=False)  # whether the items show the effect of the current options
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    stop_reason = models.CharField(max_length=300, blank=True)
    claimed_until = models.DateTimeField(null=True)  # lease of the worker

    class Meta:
        ordering = ("-pk",)
        indexes = (
            models.Index(fields=("claimed_until",), condition=Q(state="running"), name="bulk_action_running"),
            models.Index(fields=("created_at",), name="bulk_action_created"),
        )

    def __str__(self) -> str:
        return self.get_action_display()

    @property
    def owner_id(self) -> int:
        """The person who may read audit events about it; see AuditEvent.owner_id."""
        return self.requested_by_id

    @property
    def is_draft(self) -> bool:
        return self.state == self.State.DRAFT

    @property
    def is_running(self) -> bool:
        return self.state == self.State.RUNNING


class BulkItem(models.Model):
    """One connection of a bulk action, with the reason if it is skipped. It remains if the connection is removed."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        DONE = "done", "Done"
        SKIPPED = "skipped", "Skipped"

    bulk_action = models.ForeignKey(BulkAction, models.CASCADE, related_name="items", db_index=False)
    # Not a foreign key: items are never looked up by connection, and they remain when a connection is removed.
    connection_pk = models.BigIntegerField()
    connection_name = models.CharField(max_length=120)
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    note = models.TextField(blank=True)  # why it is skipped, or its state after the action

    class Meta:
        ordering = ("pk",)
        constraints = (
            models.UniqueConstraint(fields=("bulk_action", "connection_pk"), name="bulk_action_has_connection_once"),
        )
        indexes = (models.Index(fields=("bulk_action", "state", "id"), name="bulk_item_by_state"),)

    def __str__(self) -> str:
        return self.connection_name
