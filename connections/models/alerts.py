import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.fields import SecretField
from connections.models.app_registrations import AppCredential
from connections.models.incidents import Incident


class AlertChannel(models.Model):
    """A webhook or chat that receives all of the organisation's alerts."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Signed webhook (Standard Webhooks)"
        CHAT = "chat", "Chat webhook (adaptive card, Teams)"

    name = models.CharField(max_length=120, unique=True)
    kind = models.CharField(max_length=10, choices=Kind)
    # The encrypted columns are bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    url = SecretField()  # the address of a chat webhook is itself a secret
    host = models.CharField(max_length=253)  # shown instead of the address
    signing_secret = SecretField()  # webhooks only; shown once
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    disabled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("name", "pk")

    def __str__(self) -> str:
        return self.name


class AlertChoice(models.Model):
    """A person's email preferences. The defaults apply to people without a row."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="alert_choice")
    own_incidents = models.BooleanField("what I must fix", default=True)
    reminders = models.BooleanField("reminders while it is not mended", default=True)
    recoveries = models.BooleanField("when it works again", default=True)
    # Only for IT admins.
    organisation_incidents = models.BooleanField("incidents of the organisation", default=True)
    expiry_warnings = models.BooleanField("secrets and certificates that expire soon", default=True)
    messages = models.BooleanField("what I am asked to decide, and answers to what I asked", default=True)

    def __str__(self) -> str:
        return f"Choices of {self.user}"


class Delivery(models.Model):
    """An alert to one recipient. It stays in the outbox until it is delivered or all attempts have failed."""

    class Event(models.TextChoices):
        OPENED = "opened", "Incident opened"
        REMINDER = "reminder", "Reminder"
        HEALED = "healed", "Incident resolved"
        EXPIRY = "expiry", "Credential expires soon"
        MESSAGE = "message", "Request or review"
        TEST = "test", "Test"

    # Prevents duplicates; for example "incident:7:opened:bob@example.org".
    key = models.CharField(max_length=420, unique=True)
    event = models.CharField(max_length=10, choices=Event)
    incident = models.ForeignKey(Incident, models.CASCADE, null=True, related_name="deliveries")
    credential = models.ForeignKey(AppCredential, models.CASCADE, null=True, related_name="+")
    # Only for messages. The subject of other alerts is built when they are sent.
    subject = models.CharField(max_length=200, blank=True)
    email = models.EmailField(max_length=320, blank=True)
    channel = models.ForeignKey(AlertChannel, models.CASCADE, null=True, related_name="deliveries")
    payload = models.JSONField(default=dict)  # values for the templates as of the alert's creation; never a secret
    created_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)  # null: delivered or failed for good
    last_error = models.CharField(max_length=300, blank=True)
    delivered_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)
        verbose_name_plural = "deliveries"
        constraints = (
            models.CheckConstraint(
                condition=Q(email="", channel__isnull=False) | (~Q(email="") & Q(channel__isnull=True)),
                name="delivery_has_one_recipient",
            ),
        )
        indexes = (models.Index(fields=("next_attempt_at",), condition=Q(delivered_at=None), name="delivery_due"),)

    def __str__(self) -> str:
        return f"{self.get_event_display()} to {self.email or self.channel}"
