from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.connections import Connection


class HandOver(models.Model):
    """A change of a connection's owner. Until it is completed, the new owner may sign in with a different account."""

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="hand_overs")
    from_owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    from_name = models.CharField(max_length=320)
    to_owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="hand_overs")
    to_name = models.CharField(max_length=320)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    by_name = models.CharField(max_length=320)
    at = models.DateTimeField()
    # Whether the old account's tokens are kept until the new owner has signed in. Otherwise they were deleted
    # immediately.
    keeps_grant = models.BooleanField()
    account_before = models.CharField(max_length=320, blank=True)  # the account that was signed in before, or ""
    completed_at = models.DateTimeField(null=True)
    # Set if ownership was transferred again before this transfer was completed.
    superseded_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("connection",),
                condition=Q(completed_at=None, superseded_at=None),
                name="hand_over_unfinished_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.connection} from {self.from_name} to {self.to_name}"
