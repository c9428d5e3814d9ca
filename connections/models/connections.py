import uuid
from datetime import datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.fields import SecretField
from connections.models.app_registrations import AppConsent, AppRegistration, AuthenticationType
from connections.models.tenants import Tenant

# Encrypted columns. Queries load them only if they name them explicitly.
SECRETS = ("refresh_token", "previous_refresh_token", "access_token")

# For select_related(): the rows that determine a connection's state and place.
RELATED = ("app_registration__tenant", "tenant", "app_consent")

# Whether Microsoft rejects a connection's app registration, in all tenants or its own (Connection.app_rejection).
APP_REJECTED = Q(app_registration__rejected_at__isnull=False) | Q(app_consent__rejected_at__isnull=False)

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

    ``cause``, ``action`` and ``who`` are empty if there is no problem. ``reference`` is the data that Microsoft's
    support asks for.
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

    def with_related(self) -> models.QuerySet["Connection"]:
        """Return connections with RELATED and the owner."""
        return self.select_related(*RELATED, "owner")

    def locked(self) -> models.QuerySet["Connection"]:
        """Like ``with_related``, but locks the connections' rows until the transaction ends."""
        return self.with_related().select_for_update(of=("self",), no_key=True)


class Connection(models.Model):
    """An authorised connection to Microsoft Graph or other resources through an app registration.

    When ``refresh_after`` is due, the token scheduler claims the connection by moving that time forward. Every write of
    tokens checks and increments ``token_version``, so that a slow, old response never overwrites a new sign-in.
    """

    class Status(models.TextChoices):
        PENDING = "pending", "Not signed in yet"
        ACTIVE = "active", "Active"
        RECONNECT_NEEDED = "reconnect_needed", "Sign-in required"
        CONSENT_NEEDED = "consent_needed", "Consent required"
        BLOCKED = "blocked", "Blocked by policy"
        DISABLED = "disabled", "Disabled"

    # The token scheduler refreshes connections in these states. Consent and policy problems may be fixed without the
    # owner, while a revoked grant needs a new sign-in.
    KEPT_ALIVE = (Status.ACTIVE, Status.CONSENT_NEEDED, Status.BLOCKED)

    class Who(models.TextChoices):
        OWNER = "owner", "The owner"
        IT_ADMIN = "it_admin", "An IT admin"
        MICROSOFT = "microsoft", "Microsoft"
        NOBODY = "nobody", "Nobody needs to act"

    name = models.CharField(max_length=120)
    # The indexes below cover this column. Another index would have to be updated at every refresh.
    app_registration = models.ForeignKey(AppRegistration, models.PROTECT, related_name="connections", db_index=False)
    # The directory that the connection works in. A shared endpoint until a sign-in shows a registered directory.
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="connections", db_index=False)
    # The row for this app registration in this tenant; services/connections always sets all three columns together. The
    # database refuses to delete a row in use. If Django did this, it would read all connections first.
    app_consent = models.ForeignKey(
        AppConsent, models.DO_NOTHING, related_name="connections", db_index=False, editable=False
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="connections", db_index=False)
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    capabilities = models.JSONField(default=list, blank=True)  # keys of connections.microsoft.capabilities
    extra_scopes = models.TextField(blank=True)  # entered by the person, separated by spaces
    # The resource of the tokens below (a key of connections.microsoft.resources). Other tokens are in ResourceToken.
    resource = models.CharField(max_length=150, default="graph")
    # The organisation's host names at SharePoint and Dataverse, by resource.
    hosts = models.JSONField(default=dict, blank=True)
    # Addresses of shared mailboxes. They are attached once a sign-in shows which directory they are in.
    pending_mailboxes = models.JSONField(default=list, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    # Why the connection is in this status (microsoft.classifier.Verdict). Empty if there is no problem.
    status_code = models.CharField(max_length=60, blank=True)
    status_cause = models.TextField(blank=True)
    status_action = models.TextField(blank=True)
    status_who = models.CharField(max_length=10, choices=Who, blank=True)
    status_since = models.DateTimeField(default=timezone.now)
    # Who disabled the connection, and whether only an IT admin may enable it. Set only while it is disabled.
    disabled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    disabled_by_admin = models.BooleanField(default=False)
    # The trace ID, correlation ID and time, which Microsoft's support asks for.
    status_reference = models.CharField(max_length=200, blank=True)
    # A first response suggesting that the grant was revoked. The status changes only if a second response confirms
    # this.
    suspected_code = models.CharField(max_length=60, blank=True)
    suspected_at = models.DateTimeField(null=True, blank=True)
    # The last temporary problem (outage, throttling), and how many there have been in a row.
    trouble_code = models.CharField(max_length=60, blank=True)
    trouble_at = models.DateTimeField(null=True, blank=True)
    trouble_count = models.PositiveIntegerField(default=0)

    # The account that signed in. Microsoft identifies it by (environment, account_tid, account_oid).
    account_tid = models.CharField(max_length=36, blank=True)
    account_oid = models.CharField(max_length=36, blank=True)
    # The preferred_username, which may change. Only for display.
    account_username = models.CharField(max_length=320, blank=True)
    account_name = models.CharField(max_length=256, blank=True)
    sign_in_started_at = models.DateTimeField(null=True, blank=True)  # only until the sign-in returns
    # The last time a person (or an admin) authorised the connection.
    connected_at = models.DateTimeField(null=True, blank=True)

    # Requested at every refresh: the scopes that the last sign-in requested and got (short names, separated by spaces).
    scopes = models.TextField(blank=True)
    # What Microsoft granted last: delegated scopes (scp) or application roles (short names, separated by spaces).
    granted_scopes = models.TextField(blank=True)
    # What Microsoft granted last for all other resources. This combines ResourceToken.granted_scopes for pages and the
    # policy, which read it for many connections at once.
    other_granted = models.TextField(blank=True)
    # The encrypted columns are bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    refresh_token = SecretField()
    # The last refresh token that worked. Entra does not revoke it on use, so it is the fallback if the newer one fails.
    previous_refresh_token = SecretField()
    access_token = SecretField()
    expires_at = models.DateTimeField(null=True, blank=True)  # when the access token expires
    token_version = models.PositiveBigIntegerField(default=0)
    refresh_after = models.DateTimeField(null=True, blank=True)
    refreshed_at = models.DateTimeField(null=True, blank=True)  # last success at the token endpoint
    # The sign-in frequency in the directory's Conditional Access, in seconds, as learnt from AADSTS70043.
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
            models.Index(fields=("app_registration", "tenant", "status"), name="connection_by_app"),
            models.Index(fields=("account_oid", "account_tid"), name="connection_by_account"),
            models.Index(fields=("name", "id"), name="connection_by_name"),
            # Usually few, which a list would otherwise look for among all connections.
            models.Index(
                fields=("name", "id"), condition=Q(authentication_type="client_credentials"), name="connection_app_only"
            ),
            # These indexes leave out active connections, so that refreshes don't have to update them.
            models.Index(fields=("status", "name", "id"), condition=~Q(status="active"), name="connection_not_active"),
            models.Index(
                fields=("-status_since", "id"),
                condition=Q(status__in=("reconnect_needed", "consent_needed", "blocked")),
                name="connection_broken",
            ),
            models.Index(
                fields=("refreshed_at", "id"),
                condition=Q(status__in=("disabled", "blocked", "consent_needed"), refreshed_at__isnull=False),
                name="connection_parked",
            ),
            models.Index(
                fields=("connected_at", "id"),
                condition=Q(status="active", sign_in_max_age__isnull=False),
                name="connection_sign_in_limited",
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_delegated(self) -> bool:
        return self.authentication_type == AuthenticationType.AUTHORIZATION_CODE

    @property
    def is_blocked_by_app(self) -> bool:
        """Whether the connection waits because Microsoft rejects its app registration, in all tenants or in its own."""
        return self.status == self.Status.ACTIVE and self.app_rejection is not None

    @property
    def app_rejection(self) -> AppRegistration | AppConsent | None:
        """The object that Microsoft rejects, with the reason: the app registration, or its consent in this tenant."""
        if self.app_registration.rejected_at is not None:
            return self.app_registration
        return self.app_consent if self.app_consent.rejected_at is not None else None

    @property
    def granted(self) -> frozenset[str]:
        """All granted permissions, for all resources."""
        return frozenset(self.granted_scopes.split()) | frozenset(self.other_granted.split())
