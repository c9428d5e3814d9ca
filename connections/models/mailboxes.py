"""Shared mailboxes, and whether a connection really reaches them."""

from typing import cast

from django.conf import settings
from django.db import models
from django.db.models.functions import Lower

from connections.models.connections import Connection, without_tokens
from connections.models.tenants import Tenant


class SharedMailbox(models.Model):
    """A shared mailbox address in a tenant; registered once, attached to any number of connections."""

    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="shared_mailboxes")
    address = models.EmailField(max_length=320)
    display_name = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ("address", "pk")
        verbose_name_plural = "shared mailboxes"
        constraints = (models.UniqueConstraint("tenant", Lower("address"), name="mailbox_once_per_tenant"),)

    def __str__(self) -> str:
        return self.address


class MailboxAccessQuerySet(models.QuerySet["MailboxAccess"]):
    """Small questions about accesses."""

    def with_connection(self) -> "MailboxAccessQuerySet":
        """Each with its connection and all that hangs on it; the encrypted columns stay in the database."""
        joined = self.select_related("connection__app_registration__tenant", "connection__owner")
        return cast("MailboxAccessQuerySet", without_tokens(joined))


class MailboxAccess(models.Model):
    """Whether one connection reaches one shared mailbox, as last probed with the connection's own token."""

    class State(models.TextChoices):
        """The outcome of the last probe."""

        UNPROBED = "unprobed", "Not tested yet"
        REACHABLE = "reachable", "Reachable"
        UNREACHABLE = "unreachable", "Not reachable"
        UNKNOWN = "unknown", "Could not be tested"

    connection = models.ForeignKey(Connection, models.CASCADE, related_name="mailbox_accesses")
    mailbox = models.ForeignKey(SharedMailbox, models.PROTECT, related_name="accesses")
    state = models.CharField(max_length=12, choices=State, default=State.UNPROBED)
    code = models.CharField(max_length=60, blank=True)
    # What exactly is missing, for machines: a graph.Lack, for example "full_access" or "shared_scope".
    lack = models.CharField(max_length=30, blank=True)
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)
    probed_at = models.DateTimeField(null=True, blank=True)
    # When the next routine probe is due; the probing task claims it by moving it forward.
    probe_after = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MailboxAccessQuerySet.as_manager()

    class Meta:
        ordering = ("mailbox__address", "pk")
        verbose_name_plural = "mailbox accesses"
        constraints = (models.UniqueConstraint(fields=("connection", "mailbox"), name="mailbox_attached_once"),)
        indexes = (models.Index(fields=("probe_after",), name="mailbox_probe_due"),)

    def __str__(self) -> str:
        return f"{self.connection} → {self.mailbox}"
