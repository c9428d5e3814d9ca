"""People who use the portal."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils.crypto import salted_hmac

# Roles are Django groups with these names; everybody else is a member.
IT_ADMINS = "IT admins"
AUDITORS = "Auditors"


class User(AbstractUser):
    """A person. Signs in with Microsoft, or with a local password (first superuser, break-glass)."""

    class Left(models.TextChoices):
        """How the portal knows that somebody has left."""

        DISABLED = "disabled", "Disabled in this portal"
        REFUSED = "refused", "Microsoft refuses the account"
        DIRECTORY = "directory", "Disabled or deleted in the directory"

    # Since when the person counts as having left, and how that is known; both end with the next sign-in.
    left_at = models.DateTimeField(null=True, blank=True, editable=False)
    left_how = models.CharField(max_length=10, choices=Left, blank=True, editable=False)
    left_cause = models.TextField(blank=True, editable=False)  # one sentence for people
    # Sessions begun before are over; read by the session's hash.
    signed_out_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Names of the roles that came from Entra groups at the last sign-in that named them; null: never noted.
    roles_by_group = models.JSONField(null=True, blank=True, editable=False)
    # Last sign-in at which Microsoft left the groups out because there are too many; null: they were named.
    groups_left_out_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta(AbstractUser.Meta):
        indexes = (models.Index(fields=("left_at",), condition=Q(left_at__isnull=False), name="person_left"),)

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    def _get_session_auth_hash(self, secret: str | bytes | None = None) -> str:
        """Django compares this with the session at every request: a later ``signed_out_at`` ends them all."""
        before: str = super()._get_session_auth_hash(secret=secret)  # type: ignore[misc]
        if self.signed_out_at is None:
            return before
        return salted_hmac(
            "signed-out", f"{before}{self.signed_out_at.isoformat()}", secret=secret, algorithm="sha256"
        ).hexdigest()
