"""API keys: the credentials of automations, and what they fetched."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.connections import Connection


class ApiKey(models.Model):
    """The credential of an automation. It acts as its owner, within its scopes; only a digest of it is stored."""

    class Scope(models.TextChoices):
        """What a key may be used for."""

        TOKEN_READ = "token:read", "Fetch access tokens"
        CONNECTIONS_READ = "connections:read", "List connections and read their state"
        CONNECTIONS_WRITE = "connections:write", "Make, change, share and remove connections"
        ADMIN_READ = "admin:read", "Read tenants, app registrations, teams and people"
        ADMIN_WRITE = "admin:write", "Change tenants, app registrations and teams"
        AUDIT_READ = "audit:read", "Read and export the audit trail"

    name = models.CharField(max_length=120)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys")
    prefix = models.CharField(max_length=16, unique=True)  # finds the row; shown in lists
    digest = models.CharField(max_length=64)  # SHA-256 of the whole key, hex; the key itself has 190 random bits
    scopes = models.JSONField(default=list)
    # Whether the key reaches the chosen connections alone. A flag of its own: the last of them may be removed, and
    # then the key reaches nothing, not everything.
    only_chosen = models.BooleanField(default=False)
    connections = models.ManyToManyField(Connection, blank=True, related_name="api_keys")
    networks = models.JSONField(default=list, blank=True)  # CIDR texts; none means from anywhere
    # Calls in a minute, where an IT admin has set them for this key; null means API_RATE_LIMIT, 0 any number.
    rate_limit = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_from = models.GenericIPAddressField(null=True, blank=True, editable=False)
    # The secret before the last rotation: it goes on working until ``previous_until``, and only if that is set.
    previous_prefix = models.CharField(max_length=16, unique=True, null=True, blank=True, editable=False)
    previous_digest = models.CharField(max_length=64, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    previous_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    rotated_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The smallest number of days before its end that its owner has been warned of.
    warned_days = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (models.UniqueConstraint(fields=("owner", "name"), name="key_name_once_per_owner"),)
        indexes = (models.Index(fields=("expires_at",), condition=models.Q(revoked_at=None), name="key_ends"),)

    def __str__(self) -> str:
        return self.name

    def is_valid(self, now: datetime | None = None) -> bool:
        """Whether it is neither revoked nor expired at ``now``."""
        moment = now or timezone.now()
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > moment)

    @property
    def used_at(self) -> datetime | None:
        """When it was last used, with whichever of its secrets."""
        return max((used for used in (self.last_used_at, self.previous_used_at) if used), default=None)

    def takes_previous(self, now: datetime) -> bool:
        """Whether the secret before the last rotation still works at ``now``."""
        return self.previous_until is not None and self.previous_until > now and self.is_valid(now)


class TokenFetch(models.Model):
    """How often one key fetched tokens of one connection from one address in one minute: an audit record with a count.

    When its minute is over it is sealed together with the audit events, and from then on it never changes.
    """

    key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="fetches")
    # The ids of key and connection for ever: these are sealed, as the references go when what they point to does.
    key_ref = models.BigIntegerField(null=True, editable=False)
    key_name = models.CharField(max_length=120)
    owner_name = models.CharField(max_length=320)
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="fetches", db_index=False)
    connection_ref = models.BigIntegerField(null=True, editable=False)
    connection_name = models.CharField(max_length=120)
    minute = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    count = models.PositiveIntegerField(default=1)
    seal = models.BigIntegerField(null=True, editable=False)  # the number of the AuditSeal that holds it

    class Meta:
        ordering = ("-minute", "-pk")
        constraints = (
            # What comes after the sealing, from a clock that is late, is counted in a row of its own.
            models.UniqueConstraint(
                fields=("key", "connection", "address", "minute"),
                condition=Q(seal=None),
                name="fetches_once_per_minute",
            ),
        )
        indexes = (
            models.Index(fields=("connection", "-minute"), name="fetches_by_connection"),
            models.Index(fields=("minute",), name="fetches_by_time"),
            models.Index(fields=("seal", "id"), name="fetches_by_seal"),
        )

    def __str__(self) -> str:
        return f"{self.count} by {self.key_name} at {self.minute:%Y-%m-%d %H:%M}"
