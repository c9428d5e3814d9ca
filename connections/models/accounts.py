from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils.crypto import salted_hmac

# Roles are Django groups with these names. Everybody else is an ordinary member.
IT_ADMINS = "IT admins"
AUDITORS = "Auditors"


class User(AbstractUser):
    """A person, who signs in with Microsoft or a local password, or a service account, which never signs in."""

    class Kind(models.TextChoices):
        PERSON = "person", "Person"
        SERVICE = "service", "Service account"

    class Left(models.TextChoices):
        DISABLED = "disabled", "Disabled in this portal"
        REFUSED = "refused", "Microsoft refuses the account"
        DIRECTORY = "directory", "Disabled or deleted in the directory"

    # When the portal noticed that the person has left, and how. Cleared by the next sign-in.
    left_at = models.DateTimeField(null=True, blank=True, editable=False)
    left_how = models.CharField(max_length=10, choices=Left, blank=True, editable=False)
    left_cause = models.TextField(blank=True, editable=False)  # one sentence to show to people
    # Sessions started before this time are invalid; see _get_session_auth_hash().
    signed_out_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Roles assigned by Entra groups at the last sign-in that listed the groups; null: no sign-in has listed them.
    roles_by_group = models.JSONField(null=True, blank=True, editable=False)
    # The last sign-in at which Microsoft omitted the groups because there are too many; null: they were listed.
    groups_left_out_at = models.DateTimeField(null=True, blank=True, editable=False)

    kind = models.CharField(max_length=10, choices=Kind, default=Kind.PERSON, editable=False)
    # Only for service accounts: the purpose, and the person responsible, who is also warned before its keys expire.
    purpose = models.TextField(blank=True, editable=False)
    responsible = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="service_accounts", editable=False
    )

    class Meta(AbstractUser.Meta):
        indexes = (models.Index(fields=("left_at",), condition=Q(left_at__isnull=False), name="person_left"),)
        constraints = (
            # It has no usable password and no access to Django's admin site.
            models.CheckConstraint(
                condition=~Q(kind="service") | Q(password__startswith="!", is_superuser=False, is_staff=False),  # noqa: S106
                name="service_account_cannot_sign_in",
            ),
            models.UniqueConstraint(
                fields=("first_name",), condition=Q(kind="service"), name="service_account_name_once"
            ),
        )

    def __str__(self) -> str:
        return self.get_full_name() or self.username

    @property
    def is_service(self) -> bool:
        return self.kind == self.Kind.SERVICE

    @property
    def contact(self) -> "User | None":
        return self.responsible if self.is_service else self

    def _get_session_auth_hash(self, secret: str | bytes | None = None) -> str:
        """Return the hash that Django compares at every request, so that a new ``signed_out_at`` ends all sessions."""
        base: str = super()._get_session_auth_hash(secret=secret)  # type: ignore[misc]
        if self.signed_out_at is None:
            return base
        value = f"{base}{self.signed_out_at.isoformat()}"
        return salted_hmac("signed-out", value, secret=secret, algorithm="sha256").hexdigest()
