from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils.crypto import salted_hmac

# Roles are Django groups with these names. Everybody else is a member.
IT_ADMINS = "IT admins"
AUDITORS = "Auditors"


class User(AbstractUser):
    """A person or a service account. People sign in with Microsoft or a local password, service accounts never do."""

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
    # When the directory last confirmed the person's roles, and the groups of their teams. Null: not from a directory.
    roles_read_at = models.DateTimeField(null=True, blank=True, editable=False)
    groups_read_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Sessions started before this time are invalid; see _get_session_auth_hash().
    signed_out_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Roles assigned by Entra groups, as of the last sign-in that listed the groups. Null: none has listed them.
    roles_by_group = models.JSONField(null=True, blank=True, editable=False)
    # The last sign-in at which Microsoft omitted the groups because there were too many; null if they were listed.
    groups_left_out_at = models.DateTimeField(null=True, blank=True, editable=False)

    # The time zone for pages and emails, e.g. "Europe/Berlin". Empty: the browser's on pages, UTC in emails.
    time_zone = models.CharField(max_length=64, blank=True, default="", db_default="", editable=False)

    kind = models.CharField(max_length=10, choices=Kind, default=Kind.PERSON, editable=False)
    # Only for service accounts: the purpose, and the person responsible, who is also warned before keys expire.
    purpose = models.TextField(blank=True, editable=False)
    responsible = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="service_accounts", editable=False
    )

    # Who answers no access reviews: IT admins do it for them.
    CANNOT_ANSWER = Q(is_active=False) | Q(left_at__isnull=False) | Q(kind="service")

    # The columns of lists that this person has chosen, by page; see services.people.preferences.
    list_columns = models.JSONField(default=dict, editable=False)

    class Meta(AbstractUser.Meta):
        indexes = (
            models.Index(fields=("left_at",), condition=Q(left_at__isnull=False), name="person_left"),
            models.Index(fields=("kind", "first_name", "last_name", "id"), name="person_by_name"),
            models.Index(fields=("first_name", "last_name", "id"), name="owner_by_name"),
            models.Index(fields=("last_login", "id"), name="person_by_sign_in"),
            models.Index(
                fields=("id",),
                condition=Q(is_active=False) | Q(left_at__isnull=False) | Q(kind="service"),
                name="person_cannot_answer",
            ),
        )
        constraints = (
            # A service account has no usable password and no access to Django's admin site.
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
    def is_suspended(self) -> bool:
        """Whether sessions, keys and shares are suspended, because the account is disabled or the person has left."""
        return not self.is_active or self.left_at is not None

    @property
    def contact(self) -> "User | None":
        return self.responsible if self.is_service else self

    def _get_session_auth_hash(self, secret: str | bytes | None = None) -> str:
        """Return the hash that Django compares at every request.

        The hash changes with ``signed_out_at`` and when the person leaves, which ends all of the person's sessions.
        """
        base: str = super()._get_session_auth_hash(secret=secret)  # type: ignore[misc]
        if self.signed_out_at is None and self.left_at is None:
            return base
        moments = (self.signed_out_at, self.left_at)
        value = base + "|".join(moment.isoformat() for moment in moments if moment is not None)
        return salted_hmac("signed-out", value, secret=secret, algorithm="sha256").hexdigest()
