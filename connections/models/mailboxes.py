from typing import cast

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower

from connections.models.connections import RELATED, Connection, without_tokens
from connections.models.tenants import Tenant


class SharedMailbox(models.Model):
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="shared_mailboxes")
    address = models.EmailField(max_length=320)
    display_name = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ("address", "pk")
        verbose_name_plural = "shared mailboxes"
        constraints = (models.UniqueConstraint("tenant", Lower("address"), name="mailbox_once_per_tenant"),)
        indexes = (
            models.Index(fields=("address", "id"), name="mailbox_by_address"),
            models.Index(fields=("tenant", "address", "id"), name="mailbox_by_tenant"),
        )

    def __str__(self) -> str:
        return self.address


class MailboxAccessQuerySet(models.QuerySet["MailboxAccess"]):
    def with_connection(self) -> "MailboxAccessQuerySet":
        """Join the rows that a probe needs, without loading the encrypted columns."""
        joined = self.select_related(*(f"connection__{name}" for name in RELATED), "connection__owner")
        return cast("MailboxAccessQuerySet", without_tokens(joined))


class MailboxAccess(models.Model):
    """Whether a connection can reach a shared mailbox, as of the last probe with the connection's own token."""

    class State(models.TextChoices):
        UNPROBED = "unprobed", "Not tested yet"
        REACHABLE = "reachable", "Reachable"
        UNREACHABLE = "unreachable", "Not reachable"
        UNKNOWN = "unknown", "Could not be tested"

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="mailbox_accesses")
    mailbox = models.ForeignKey(SharedMailbox, models.PROTECT, related_name="accesses")
    state = models.CharField(max_length=12, choices=State, default=State.UNPROBED)
    code = models.CharField(max_length=60, blank=True)
    # What is missing, as a value of microsoft.mailbox_errors.MissingAccess, such as "full_access" or "shared_scope".
    lack = models.CharField(max_length=30, blank=True)
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)
    probed_at = models.DateTimeField(null=True, blank=True)
    # When the next probe is due. The task claims the probe by moving this time forward.
    probe_after = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MailboxAccessQuerySet.as_manager()

    class Meta:
        ordering = ("mailbox__address", "pk")
        verbose_name_plural = "mailbox accesses"
        constraints = (models.UniqueConstraint(fields=("connection", "mailbox"), name="mailbox_attached_once"),)
        indexes = (
            models.Index(fields=("probe_after",), name="mailbox_probe_due"),
            models.Index(fields=("id",), condition=models.Q(state="unreachable"), name="mailbox_unreachable"),
        )

    def __str__(self) -> str:
        return f"{self.connection} → {self.mailbox}"
