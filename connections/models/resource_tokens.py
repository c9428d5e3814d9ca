import uuid

from django.db import models
from django.utils import timezone

from connections.fields import SecretField
from connections.models.connections import Connection


class ResourceTokenManager(models.Manager["ResourceToken"]):
    def get_queryset(self) -> models.QuerySet["ResourceToken"]:
        return super().get_queryset().defer("access_token")


class ResourceToken(models.Model):
    """A connection's access to a further resource, besides that of its main token. All use the same refresh token.

    The row exists while the connection may request tokens for the resource, even if there is no token at the moment.
    """

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="resource_tokens", db_index=False)
    resource = models.CharField(max_length=150)  # a key of connections.microsoft.resources
    # The encrypted column is bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    access_token = SecretField()
    expires_at = models.DateTimeField(null=True, blank=True)  # when the access token expires
    # What Microsoft granted last. Each name begins with the resource's key; separated by spaces.
    granted_scopes = models.TextField(blank=True)
    refreshed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    # Why Microsoft refuses a token for this resource (microsoft.classifier.Verdict). Empty if there is no problem.
    problem_code = models.CharField(max_length=60, blank=True)
    problem_status = models.CharField(max_length=20, choices=Connection.Status, blank=True)
    problem_cause = models.TextField(blank=True)
    problem_action = models.TextField(blank=True)
    problem_who = models.CharField(max_length=10, choices=Connection.Who, blank=True)
    problem_at = models.DateTimeField(null=True, blank=True)
    # The last temporary problem (outage, throttling). Empty after a success.
    trouble_at = models.DateTimeField(null=True, blank=True)

    objects = ResourceTokenManager()

    class Meta:
        ordering = ("connection", "resource")
        base_manager_name = "objects"
        constraints = (models.UniqueConstraint(fields=("connection", "resource"), name="resource_once_per_connection"),)

    def __str__(self) -> str:
        return f"{self.resource} of {self.connection}"
