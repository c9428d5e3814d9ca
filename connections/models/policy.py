from django.conf import settings
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from connections.models.app_registrations import AppRegistration, AuthenticationType
from connections.models.connections import Connection


class Policy(models.Model):
    """The organisation's rules (``app_registration`` null), or additional rules for one app registration."""

    app_registration = models.OneToOneField(AppRegistration, models.CASCADE, null=True, related_name="policy")
    rules = models.JSONField(default=dict)
    version = models.PositiveIntegerField(default=1)  # incremented by every change, to detect concurrent changes
    changed_at = models.DateTimeField(default=timezone.now)
    changed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ("pk",)
        verbose_name_plural = "policies"
        constraints = (
            # Coalesce, because NULLs are distinct in a plain unique constraint.
            models.UniqueConstraint(Coalesce("app_registration", Value(0)), name="policy_once"),
        )

    def __str__(self) -> str:
        return f"Policy of {self.app_registration}" if self.app_registration_id else "Policy of the organisation"


class Approval(models.Model):
    """A request to approve exactly these permissions of a connection, and the decision, which never changes.

    If ``account_oid`` is set, the request is not about permissions. It is about a new Microsoft account with the same
    name.
    """

    class State(models.TextChoices):
        WAITING = "waiting", "Awaiting approval"
        APPROVED = "approved", "Approved"
        DECLINED = "declined", "Declined"
        WITHDRAWN = "withdrawn", "Withdrawn"

    # Null once the connection has been removed; its name is kept.
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="approvals")
    connection_name = models.CharField(max_length=120)
    app_name = models.CharField(max_length=120)
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    # What was requested: capability keys, manually entered scopes, and all resulting permissions as short names.
    capabilities = models.JSONField(default=list)
    extra_scopes = models.TextField(blank=True)
    permissions = models.JSONField(default=list)
    # The account that is to replace the connection's account; empty for a request about permissions.
    account_oid = models.CharField(max_length=36, blank=True)
    account_username = models.CharField(max_length=320, blank=True)
    # The connection's previous values, which are restored if the request is declined or withdrawn. Null: new
    # connection.
    before = models.JSONField(null=True)
    reasons = models.JSONField(default=list)  # the rules that require an approval, as sentences
    reason = models.TextField(blank=True)  # why the requester needs it
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="approvals")
    requested_by_name = models.CharField(max_length=320)
    requested_at = models.DateTimeField()
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320, blank=True)
    decided_at = models.DateTimeField(null=True)
    decision_reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-requested_at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("connection",), condition=Q(state="waiting"), name="one_approval_waits_per_connection"
            ),
            models.CheckConstraint(
                condition=Q(state="waiting", decided_at=None) | (~Q(state="waiting") & Q(decided_at__isnull=False)),
                name="decided_approval_says_when",
            ),
        )
        indexes = (
            models.Index(fields=("-requested_at", "-id"), name="approval_by_time"),
            models.Index(fields=("-requested_at", "-id"), condition=Q(state="waiting"), name="approval_waiting"),
        )

    def __str__(self) -> str:
        return f"Approval for {self.connection_name}"

    @property
    def is_waiting(self) -> bool:
        return self.state == self.State.WAITING

    @property
    def is_app_only(self) -> bool:
        return self.authentication_type == AuthenticationType.CLIENT_CREDENTIALS
