"""Connections: one authorised link to Microsoft Graph each."""

from datetime import datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.fields import SecretField
from connections.models.app_registrations import AppRegistration, AuthenticationType

# Columns no query loads unless it names them.
SECRETS = ("refresh_token", "previous_refresh_token", "access_token")

_M = TypeVar("_M", bound=models.Model)


def without_tokens(found: "models.QuerySet[_M]", path: str = "connection") -> "models.QuerySet[_M]":
    """``found``, whose select_related reaches a connection by ``path``, with the encrypted columns left where they are.

    A join does not know the connection's manager: it would read and decrypt all of them.
    """
    return found.defer(*(f"{path}__{name}" for name in SECRETS))


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
    """The columns that put a connection into a status, for ``filter(...).update(**...)``; nothing else sets them.

    Cause, action and who are empty while all is well. ``reference`` is what Microsoft's support asks for.
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
    """Leaves the encrypted columns in the database until somebody asks for one by name."""

    def get_queryset(self) -> models.QuerySet["Connection"]:
        return super().get_queryset().defer(*SECRETS)


class Connection(models.Model):
    """One authorised link to Graph through an app registration.

    The row is also the queue entry of the sweep: ``refresh_after`` says when it is due, and claiming it moves
    that time forward by a lease. ``token_version`` is the fence: whoever writes tokens must have read the
    version that still stands, so a slow old answer never overwrites a fresh sign-in.
    """

    class Status(models.TextChoices):
        """What a connection's own state can be. "Blocked by its app registration" is derived, never stored."""

        PENDING = "pending", "Sign-in not finished"
        ACTIVE = "active", "Active"
        RECONNECT_NEEDED = "reconnect_needed", "Sign-in needed"
        CONSENT_NEEDED = "consent_needed", "Consent needed"
        BLOCKED = "blocked", "Blocked by policy"
        DISABLED = "disabled", "Disabled"

    # The sweep asks for these. Others' problems (consent, policy) may be mended without the owner; a dead grant
    # comes back only through a new sign-in.
    KEPT_ALIVE = (Status.ACTIVE, Status.CONSENT_NEEDED, Status.BLOCKED)

    class Who(models.TextChoices):
        """Who can mend it."""

        OWNER = "owner", "The owner"
        IT_ADMIN = "it_admin", "An IT admin"
        MICROSOFT = "microsoft", "Microsoft"
        NOBODY = "nobody", "Nobody needs to act"

    name = models.CharField(max_length=120)
    # Both are served by indexes below; each further index would be written twice at every refresh.
    app_registration = models.ForeignKey(AppRegistration, models.PROTECT, related_name="connections", db_index=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="connections", db_index=False)
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    capabilities = models.JSONField(default=list, blank=True)  # keys of connections.microsoft.capabilities
    extra_scopes = models.TextField(blank=True)  # typed by the person, separated by spaces
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    status = models.CharField(max_length=20, choices=Status, default=Status.PENDING)
    # Why it is in this status, in the words of the verdict that put it there. Empty while all is well.
    status_code = models.CharField(max_length=60, blank=True)
    status_cause = models.TextField(blank=True)
    status_action = models.TextField(blank=True)
    status_who = models.CharField(max_length=10, choices=Who, blank=True)
    status_since = models.DateTimeField(default=timezone.now)
    # Who disabled it, and whether only an IT admin may enable it again; both are empty while it is not disabled.
    disabled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    disabled_by_admin = models.BooleanField(default=False)
    # Trace id, correlation id and time that Microsoft's support asks for.
    status_reference = models.CharField(max_length=200, blank=True)
    # A first answer that may mean the grant is dead; flagged only if a second one confirms it.
    suspected_code = models.CharField(max_length=60, blank=True)
    suspected_at = models.DateTimeField(null=True, blank=True)
    # The last trouble that says nothing about the grant (outage, throttling), and how often in a row.
    trouble_code = models.CharField(max_length=60, blank=True)
    trouble_at = models.DateTimeField(null=True, blank=True)
    trouble_count = models.PositiveIntegerField(default=0)

    # The account that signed in; (environment, account_tid, account_oid) is its identity at Microsoft.
    account_tid = models.CharField(max_length=36, blank=True)
    account_oid = models.CharField(max_length=36, blank=True)
    account_username = models.CharField(max_length=320, blank=True)  # preferred_username: display only, it may change
    account_name = models.CharField(max_length=256, blank=True)
    # When a sign-in was started and has not come back yet.
    sign_in_started_at = models.DateTimeField(null=True, blank=True)
    connected_at = models.DateTimeField(null=True, blank=True)  # last time a person (or an admin) authorised it

    # What every refresh asks for: what the last sign-in asked for and got, short names, space separated.
    scopes = models.TextField(blank=True)
    # What Microsoft granted last: delegated scopes (scp) or application roles, short names, space separated.
    granted_scopes = models.TextField(blank=True)
    refresh_token = SecretField()
    # The one that worked last. Entra does not revoke it on use, so it rescues a grant whose newer token is bad.
    previous_refresh_token = SecretField()
    access_token = SecretField()
    expires_at = models.DateTimeField(null=True, blank=True)  # of the access token
    token_version = models.PositiveBigIntegerField(default=0)
    refresh_after = models.DateTimeField(null=True, blank=True)
    refreshed_at = models.DateTimeField(null=True, blank=True)  # last success at the token endpoint
    # Longest a sign-in lasts under the directory's Conditional Access, learnt from AADSTS70043; seconds.
    sign_in_max_age = models.PositiveIntegerField(null=True, blank=True)
    checked_at = models.DateTimeField(null=True, blank=True)  # last answer of any kind from the token endpoint

    objects = ConnectionManager()

    class Meta:
        ordering = ("name", "pk")
        base_manager_name = "objects"
        constraints = (
            models.UniqueConstraint(fields=("owner", "name"), name="connection_name_once_per_owner"),
            # Nothing active without a grant: a delegated connection has a refresh token.
            models.CheckConstraint(
                condition=~Q(status="active", authentication_type="authorization_code", refresh_token__isnull=True),
                name="active_delegated_has_refresh_token",
            ),
        )
        indexes = (
            # The sweep's queue.
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
        """Whether a person signed in, as opposed to app-only."""
        return self.authentication_type == AuthenticationType.AUTHORIZATION_CODE

    @property
    def is_blocked_by_app(self) -> bool:
        """Derived, never stored: Microsoft rejects the app registration, so this connection waits for it."""
        return self.status == self.Status.ACTIVE and self.app_registration.rejected_at is not None

    @property
    def granted(self) -> frozenset[str]:
        """Granted scopes or roles as short names."""
        return frozenset(self.granted_scopes.split())
