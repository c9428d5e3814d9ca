from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.alerts import Delivery
from connections.models.incidents import Incident


class Notification(models.Model):
    """A notification in the portal, stored with the email about the same event, even if the person has no address."""

    class Tone(models.TextChoices):
        BROKEN = "broken", "Problem"
        WARNING = "warning", "Warning"
        OK = "ok", "Success"
        INFO = "info", "Information"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="notifications", db_index=False)
    key = models.CharField(max_length=420)  # the event; prevents duplicates, as Delivery.key does
    event = models.CharField(max_length=10, choices=Delivery.Event)
    incident = models.ForeignKey(Incident, models.CASCADE, null=True, related_name="notifications")
    text = models.CharField(max_length=200)  # one line, as it was then; never a secret
    tone = models.CharField(max_length=10, choices=Tone, default=Tone.INFO)
    path = models.CharField(max_length=200)  # the page of the portal to open
    created_at = models.DateTimeField()
    read_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-pk",)
        constraints = (models.UniqueConstraint(fields=("user", "key"), name="notification_once_per_person"),)
        indexes = (
            models.Index(fields=("user", "-id"), name="notification_by_person"),
            models.Index(fields=("user", "-id"), condition=Q(read_at=None), name="notification_unread"),
            models.Index(fields=("created_at",), name="notification_by_age"),
        )

    def __str__(self) -> str:
        return self.text
