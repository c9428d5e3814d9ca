from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.connections import Connection


class ApiKey(models.Model):
    """An automation's credential. Within its scopes, it acts as its owner. Only a digest is stored."""

    class Scope(models.TextChoices):
        TOKEN_READ = "token:read", "Request access tokens"
        CONNECTIONS_READ = "connections:read", "List connections and view their status"
        CONNECTIONS_WRITE = "connections:write", "Create, change, share and remove connections"
        ADMIN_READ = "admin:read", "Read tenants, app registrations, teams and people"
        ADMIN_WRITE = "admin:write", "Change tenants, app registrations and teams"
        AUDIT_READ = "audit:read", "Read and export the audit trail"

    name = models.CharField(max_length=120)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys")
    prefix = models.CharField(max_length=16, unique=True)  # identifies the key; shown in lists
    digest = models.CharField(max_length=64)  # SHA-256 of the whole key, in hex; the key itself has 190 random bits
    scopes = models.JSONField(default=list)
    # Whether the key is limited to ``connections``. This needs a column of its own: when its last connection is
    # deleted, a limited key must lose all access and not gain access to every connection.
    only_chosen = models.BooleanField(default=False)
    connections = models.ManyToManyField(Connection, blank=True, related_name="api_keys")
    networks = models.JSONField(default=list, blank=True)  # in CIDR notation; empty: any address
    # Whether the key may request delegated tokens with fewer scopes than the connection has.
    can_narrow = models.BooleanField(default=False)
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
    # Who has seen the secret. The audit trail has this as well, but retention deletes its old events.
    issued_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+", db_index=False
    )
    rotated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, editable=False, related_name="+", db_index=False
    )
    # The smallest threshold, in days before expiry, at which the owner was warned.
    warned_days = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (models.UniqueConstraint(fields=("owner", "name"), name="key_name_once_per_owner"),)
        indexes = (
            models.Index(fields=("expires_at",), condition=models.Q(revoked_at=None), name="key_ends"),
            models.Index(fields=("name", "id"), name="key_by_name"),
            models.Index(fields=("expires_at", "id"), name="key_by_expiry"),
        )

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
    """A key's token requests in one minute for one resource of a connection, from one address. Never changes once
    sealed.

    Requests that used the name of a reference are counted separately.
    """

    key = models.ForeignKey(ApiKey, models.SET_NULL, null=True, related_name="fetches")
    # The original IDs of key and connection, which are sealed. The foreign keys become NULL on deletion.
    key_ref = models.BigIntegerField(null=True, editable=False)
    key_name = models.CharField(max_length=120)
    owner_name = models.CharField(max_length=320)
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="fetches", db_index=False)
    connection_ref = models.BigIntegerField(null=True, editable=False)
    connection_name = models.CharField(max_length=120)
    # The resource that the tokens were for. Sealed unless it is Graph, so that older seals remain valid.
    resource = models.CharField(max_length=150, default="graph", db_default="graph")
    # The name of the connection reference that the caller used, if any.
    reference = models.CharField(max_length=63, blank=True, default="", db_default="", editable=False)
    minute = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    count = models.PositiveIntegerField(default=1)
    seal = models.BigIntegerField(null=True, editable=False)  # number of the AuditSeal that covers the row

    class Meta:
        ordering = ("-minute", "-pk")
        constraints = (
            # Requests that are recorded after the sealing, because of a slow clock, are counted in a new row.
            models.UniqueConstraint(
                fields=("key", "connection", "address", "minute", "resource", "reference"),
                condition=Q(seal=None),
                name="fetches_once_per_minute",
            ),
        )
        indexes = (
            models.Index(fields=("connection", "-minute"), name="fetches_by_connection"),
            models.Index(fields=("reference", "-minute"), condition=~Q(reference=""), name="fetches_by_reference"),
            models.Index(fields=("minute",), name="fetches_by_time"),
            models.Index(fields=("seal", "id"), name="fetches_by_seal"),
            models.Index(fields=("connection_ref", "-minute"), name="fetches_by_connection_ref"),
        )

    def __str__(self) -> str:
        return f"{self.count} by {self.key_name} at {self.minute:%Y-%m-%d %H:%M}"
