from datetime import datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.fields import SecretField
from connections.models.app_registrations import AppRegistration, AuthenticationType

# Encrypted columns, which queries load only if they name them.
SECRETS = ("refresh_token", "previous_refresh_token", "access_token")

_M = TypeVar("_M", bound=models.Model)


def without_tokens(queryset: "models.QuerySet[_M]", path: str = "connection") -> "models.QuerySet[_M]":
    """Defer the encrypted columns of a connection joined by ``path``, because joins ignore ConnectionManager."""
    return queryset.defer(*(f"{path}__{name}" for name in SECRETS))


def status_columns(
    status: "Connection.Status",
    *,
    since: datetime,
    code: str = "",
    cause: str = "",
    action: str = "",
    who: str = "",
    reference: str = "",
) -> dict[str, Any]:
    """Return the values for ``filter(...).update(**...)`` that change a connection's status. Never set them otherwise.

    Cause, action and who are empty if there is no problem. ``reference`` is what Microsoft's support asks for.
    """
    return {
        "status": status,
        "status_code": code,
        "status_cause": cause,
        "status_action": action,
        "status_who": who,
        "status_reference": reference,
        "status_since": since,
    }


class ConnectionManager(models.Manager["Connection"]):
    def get_queryset(self) -> models.QuerySet["Connection"]:
        return super().get_queryset().defer(*SECRETS)


class Connection(models.Model):
    """An authorised connection to Microsoft Graph through an app registration.

    When ``refresh_after`` is due, the token scheduler claims the connection by moving that time forward. Every write of
    tokens checks and increments ``token_version``, so that a slow old response never overwrites a new sign-in.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Sign-in not finished"
        ACTIVE = "active", "Active"
        RECONNECT_NEEDED = "reconnect_needed", "Sign-in needed"
        CONSENT_NEEDED = "consent_needed", "Consent needed"
        BLOCKED = "blocked", "Blocked by policy"
        DISABLED = "disabled", "Disabled"

    # The token scheduler refreshes connections in these states. A consent or policy problem may be fixed without the
    # owner, while a revoked grant needs a new sign-in.
    KEPT_ALIVE = (Status.ACTIVE, Status.CONSENT_NEEDED, Status.BLOCKED)

    class Who(models.TextChoices):
        OWNER = "owner", "The owner"
        IT_ADMIN = "it_admin", "An IT admin"
        MICROSOFT = "microsoft", "Microsoft"
        NOBODY = "nobody", "Nobody needs to act"

    name = models.CharField(max_length=120)
    # Covered by the indexes below. Another index would have to be updated at every refresh.
    app_registration = models.ForeignKey(AppRegistration, models.PROTECT, related_name="connections", db_index=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="connections", db_index=False)
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    capabilities = models.JSONField(default=list, blank=True)  # keys of connections.microsoft.capabilities
    extra_scopes = models.TextField(blank=True)  # entered by the person, separated by spaces
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    # Why it is in this status (microsoft.classifier.Verdict). Empty if there is no problem.
    status_code = models.CharField(max_length=60, blank=True)
    status_cause = models.TextField(blank=True)
    status_action = models.TextField(blank=True)
    status_who = models.CharField(max_length=10, choices=Who, blank=True)
    status_since = models.DateTimeField(default=timezone.now)
    # Who disabled it, and whether only an IT admin may enable it again. Set only while it is disabled.
    disabled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    disabled_by_admin = models.BooleanField(default=False)
    # The trace id, correlation id and time, which Microsoft's support asks for.
    status_reference = models.CharField(max_length=200, blank=True)
    # A first response suggesting that the grant was revoked. The status changes only if a second one confirms it.
    suspected_code = models.CharField(max_length=60, blank=True)
    suspected_at = models.DateTimeField(null=True, blank=True)
    # The last temporary problem (outage, throttling), and how many there were in a row.
    trouble_code = models.CharField(max_length=60, blank=True)
    trouble_at = models.DateTimeField(null=True, blank=True)
    trouble_count = models.PositiveIntegerField(default=0)

    # The account that signed in. Microsoft identifies it by (environment, account_tid, account_oid).
    account_tid = models.CharField(max_length=36, blank=True)
    account_oid = models.CharField(max_length=36, blank=True)
    account_username = models.CharField(max_length=320, blank=True)  # preferred_username: display only, it may change
    account_name = models.CharField(max_length=256, blank=True)
    sign_in_started_at = models.DateTimeField(null=True, blank=True)  # only until the sign-in returns
    connected_at = models.DateTimeField(null=True, blank=True)  # last time a person (or an admin) authorised it

    # Requested at every refresh: what the last sign-in requested and got, as short names separated by spaces.
    scopes = models.TextField(blank=True)
    # What Microsoft granted last: delegated scopes (scp) or application roles, as short names separated by spaces.
    granted_scopes = models.TextField(blank=True)
    refresh_token = SecretField()
    # The last one that worked. Entra does not revoke it on use, so it is the fallback if the newer one fails.
    previous_refresh_token = SecretField()
    access_token = SecretField()
    expires_at = models.DateTimeField(null=True, blank=True)  # of the access token
    token_version = models.PositiveBigIntegerField(default=0)
    refresh_after = models.DateTimeField(null=True, blank=True)
    refreshed_at = models.DateTimeField(null=True, blank=True)  # last success at the token endpoint
    # The sign-in frequency in the directory's Conditional Access, in seconds, learnt from AADSTS70043.
    sign_in_max_age = models.PositiveIntegerField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)  # last response of any kind from the token endpoint

    objects = ConnectionManager()

    class Meta:
        ordering = ("name", "pk")
        base_manager_name = "objects"
        constraints = (
            models.UniqueConstraint(fields=("owner", "name"), name="connection_name_once_per_owner"),
            models.CheckConstraint(
                condition=~Q(status="active", authentication_type="authorization_code", refresh_token__isnull=True),
                name="active_delegated_has_refresh_token",
            ),
        )
        indexes = (
            models.Index(
                fields=("refresh_after",),
                condition=Q(status__in=("active", "consent_needed", "blocked")),
                name="connection_due",
            ),
            models.Index(fields=("app_registration", "status"), name="connection_by_app"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_delegated(self) -> bool:
        return self.authentication_type == AuthenticationType.AUTHORIZATION_CODE

    @property
    def is_blocked_by_app(self) -> bool:
        return self.status == self.Status.ACTIVE and self.app_registration.rejected_at is not None

    @property
    def granted(self) -> frozenset[str]:
        return frozenset(self.granted_scopes.split())
