from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.connections import Connection


class ApiKey(models.Model):
    """An automation's credential, which acts as its owner within its scopes. Only a digest is stored."""

    class Scope(models.TextChoices):
        TOKEN_READ = "token:read", "Fetch access tokens"
        CONNECTIONS_READ = "connections:read", "List connections and read their state"
        CONNECTIONS_WRITE = "connections:write", "Make, change, share and remove connections"
        ADMIN_READ = "admin:read", "Read tenants, app registrations, teams and people"
        ADMIN_WRITE = "admin:write", "Change tenants, app registrations and teams"
        AUDIT_READ = "audit:read", "Read and export the audit trail"

    name = models.CharField(max_length=120)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys")
    prefix = models.CharField(max_length=16, unique=True)  # identifies the key; shown in lists
    digest = models.CharField(max_length=64)  # SHA-256 of the whole key, hex; the key itself has 190 random bits
    scopes = models.JSONField(default=list)
    # Whether the key is limited to ``connections``. Stored separately because a key must lose all access, not gain
    # access to everything, when its last connection is deleted.
    only_chosen = models.BooleanField(default=False)
    connections = models.ManyToManyField(Connection, blank=True, related_name="api_keys")
    networks = models.JSONField(default=list, blank=True)  # in CIDR notation; empty: any address
    # Calls per minute, set by an IT admin. Null: API_RATE_LIMIT applies; 0: no limit.
    rate_limit = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_used_from = models.GenericIPAddressField(null=True, blank=True, editable=False)
    # The secret from before the last rotation. It works until ``previous_until``, and only if that is set.
    previous_prefix = models.CharField(max_length=16, unique=True, null=True, blank=True, editable=False)
    previous_digest = models.CharField(max_length=64, blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    previous_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    rotated_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The smallest threshold, in days before expiry, at which the owner was warned.
    warned_days = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (models.UniqueConstraint(fields=("owner", "name"), name="key_name_once_per_owner"),)
        indexes = (models.Index(fields=("expires_at",), condition=models.Q(revoked_at=None), name="key_ends"),)

    def __str__(self) -> str:
        return self.name

    def is_valid(self, now: datetime | None = None) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > (now or timezone.now()))

    @property
    def used_at(self) -> datetime | None:
        return max((used for used in (self.last_used_at, self.previous_used_at) if used), default=None)

    def takes_previous(self, now: datetime) -> bool:
        return self.previous_until is not None and self.previous_until > now and self.is_valid(now)


class TokenFetch(models.Model):
    """A key's token requests for a connection from an address in one minute. Never changes once sealed."""

    key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="fetches")
    # The original ids of key and connection, which are sealed. The foreign keys become NULL on deletion.
    key_ref = models.BigIntegerField(null=True, editable=False)
    key_name = models.CharField(max_length=120)
    owner_name = models.CharField(max_length=320)
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="fetches", db_index=False)
    connection_ref = models.BigIntegerField(null=True, editable=False)
    connection_name = models.CharField(max_length=120)
    minute = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    count = models.PositiveIntegerField(default=1)
    seal = models.BigIntegerField(null=True, editable=False)  # number of the AuditSeal that covers it

    class Meta:
        ordering = ("-minute", "-pk")
        constraints = (
            # Requests that a slow clock records after the sealing are counted in a new row.
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
