from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.app_registrations import AppRegistration, AuthenticationType
from connections.models.connections import Connection


class ConsentLink(models.Model):
    """A link to Microsoft's admin consent page for an app registration in a directory, and its outcome.

    Microsoft's callback proves nothing: it has ``admin_consent=True`` even on failure, and its ``tenant`` can be forged
    (Microsoft: identity-platform/v2-admin-consent). ``verified_at`` is set when a token contains the permissions.
    """

    class State(models.TextChoices):
        OPEN = "open", "Awaiting administrator"
        GRANTED = "granted", "Reported, checking"
        PARTIAL = "partial", "Partly granted"
        VERIFIED = "verified", "Granted and verified"
        DECLINED = "declined", "Declined"
        FAILED = "failed", "Failed"

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="consent_links")
    directory_id = models.CharField(max_length=253)  # as in Microsoft's URL: GUID, domain or "organizations"
    # Digest of the one-time OAuth state. Only the browser has the state itself.
    state_digest = models.CharField(max_length=64, unique=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    scopes = models.TextField(blank=True)  # requested permissions, as short names separated by spaces
    code = models.CharField(max_length=60, blank=True)
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)
    # The directory in the callback, shown to IT admins. It can be forged.
    reported_tid = models.CharField(max_length=36, blank=True)
    # Requested permissions that the latest check didn't find (short names, separated by spaces).
    missing = models.TextField(blank=True)
    # When to look for the consent in a token again; null: not automatically. ``checks`` is the number since the
    # callback.
    check_after = models.DateTimeField(null=True, blank=True)
    checks = models.PositiveSmallIntegerField(default=0)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    requested_at = models.DateTimeField(auto_now_add=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    verified_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-requested_at", "-pk")
        constraints = (
            models.CheckConstraint(condition=~Q(state="verified", verified_at=None), name="verified_consent_says_when"),
        )
        indexes = (
            models.Index(fields=("check_after",), condition=Q(check_after__isnull=False), name="consent_link_to_check"),
        )

    def __str__(self) -> str:
        return f"{self.app_registration} in {self.directory_id}"


class ConsentRequest(models.Model):
    """A person's request for the admin consent that a connection needs. It outlives the person and the connection.

    Requests for the same permissions of an app in a directory share a link. They are verified when a token contains
    these permissions.
    """

    class State(models.TextChoices):
        ASKED = "asked", "Awaiting IT admin"
        APPROVED = "approved", "Approved, awaiting consent"
        GRANTED = "granted", "Reported, checking"
        VERIFIED = "verified", "Granted and verified"
        DECLINED = "declined", "Declined"
        FAILED = "failed", "Failed"
        WITHDRAWN = "withdrawn", "Withdrawn"

    CLOSED = (State.VERIFIED, State.DECLINED, State.WITHDRAWN)  # a failed request can be approved again

    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="consent_requests")
    connection_name = models.CharField(max_length=120)
    app_registration = models.ForeignKey(
        AppRegistration, models.CASCADE, related_name="consent_requests", db_index=False
    )
    directory_id = models.CharField(max_length=253)  # as in ConsentLink
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    capabilities = models.JSONField(default=list)  # capability keys that the permissions are needed for
    permissions = models.TextField(blank=True)  # scopes or roles, as sorted short names separated by spaces
    reason = models.TextField()
    state = models.CharField(max_length=10, choices=State, default=State.ASKED)
    requester = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="consent_requests")
    requester_name = models.CharField(max_length=320)
    asked_at = models.DateTimeField(default=timezone.now, editable=False)
    link = models.ForeignKey(ConsentLink, models.SET_NULL, null=True, related_name="requests")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    # Why it was approved, declined, withdrawn or failed, or which permissions a token still lacks.
    answer = models.TextField(blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-asked_at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("connection",), condition=Q(closed_at=None), name="one_open_consent_request_per_connection"
            ),
        )
        indexes = (
            models.Index(fields=("app_registration", "state"), name="consent_request_by_app"),
            models.Index(fields=("-asked_at", "-id"), name="consent_request_by_time"),
            models.Index(fields=("-asked_at", "-id"), condition=Q(closed_at=None), name="consent_request_open"),
        )

    def __str__(self) -> str:
        return f"Consent for {self.connection_name}"

    @property
    def is_open(self) -> bool:
        return self.closed_at is None

    @property
    def owner_id(self) -> int | None:
        """The person who may read audit events about this request; see AuditEvent.owner_id."""
        return self.requester_id

    @property
    def permission_names(self) -> tuple[str, ...]:
        return tuple(self.permissions.split())
