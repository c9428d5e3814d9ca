"""Requests that consent is granted, and the links on which an administrator of the directory grants it."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.app_registrations import AppRegistration, AuthenticationType
from connections.models.connections import Connection


class ConsentLink(models.Model):
    """One trip to Microsoft's admin consent page for an app registration in one directory, and its outcome.

    Microsoft's callback proves nothing: it carries ``admin_consent=True`` on failure too, and its ``tenant``
    can be forged (Microsoft: identity-platform/v2-admin-consent). ``granted`` is what it said; ``verified_at``
    is set once a token shows the permissions.
    """

    class State(models.TextChoices):
        """How far it got."""

        OPEN = "open", "Waiting for the administrator"
        GRANTED = "granted", "Granted, not yet seen in a token"
        VERIFIED = "verified", "Granted and verified"
        DECLINED = "declined", "Declined"
        FAILED = "failed", "Failed at Microsoft"

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="consent_links")
    # The directory asked: its id as used in Microsoft's URL (GUID, domain or "organizations").
    directory_id = models.CharField(max_length=253)
    # Digest of the one-time state in the link; the state itself is only in the browser.
    state_digest = models.CharField(max_length=64, unique=True)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    scopes = models.TextField(blank=True)  # what was asked for, short names, space separated
    code = models.CharField(max_length=60, blank=True)
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    requested_at = models.DateTimeField(auto_now_add=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    verified_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-requested_at", "-pk")
        constraints = (
            models.CheckConstraint(condition=~Q(state="verified", verified_at=None), name="verified_consent_says_when"),
        )

    def __str__(self) -> str:
        return f"{self.app_registration} in {self.directory_id}"


class ConsentRequest(models.Model):
    """A person's request that an administrator grants what a connection needs, its state and its outcome.

    Requests for the same permissions of one application in one directory share a link. Names are frozen: the request
    tells its story after people and connections are gone. ``verified`` comes from a token alone, never from a callback.
    """

    class State(models.TextChoices):
        """How far it got."""

        ASKED = "asked", "Waits for an IT admin"
        APPROVED = "approved", "Approved, waits for the directory's administrator"
        GRANTED = "granted", "Granted, not yet seen in a token"
        VERIFIED = "verified", "Granted and verified"
        DECLINED = "declined", "Declined"
        FAILED = "failed", "Failed at Microsoft"
        WITHDRAWN = "withdrawn", "Withdrawn"

    # Ends of the story. A failed one can be approved anew, so it stays open.
    CLOSED = (State.VERIFIED, State.DECLINED, State.WITHDRAWN)

    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="consent_requests")
    connection_name = models.CharField(max_length=120)
    # Served by the index below.
    app_registration = models.ForeignKey(
        AppRegistration, models.CASCADE, related_name="consent_requests", db_index=False
    )
    directory_id = models.CharField(max_length=253)  # as in Microsoft's URLs, like the link's
    authentication_type = models.CharField(max_length=20, choices=AuthenticationType)
    capabilities = models.JSONField(default=list)  # what the permissions are for, as keys
    permissions = models.TextField(blank=True)  # scopes or roles asked for, short names, sorted, space separated
    reason = models.TextField()
    state = models.CharField(max_length=10, choices=State, default=State.ASKED)
    requester = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="consent_requests")
    requester_name = models.CharField(max_length=320)
    asked_at = models.DateTimeField(default=timezone.now, editable=False)
    link = models.ForeignKey(ConsentLink, models.SET_NULL, null=True, related_name="requests")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    answer = models.TextField(blank=True)  # why it was declined or withdrawn, or failed, or what a token still lacks
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-asked_at", "-pk")
        constraints = (
            models.UniqueConstraint(
                fields=("connection",), condition=Q(closed_at=None), name="one_open_consent_request_per_connection"
            ),
        )
        indexes = (models.Index(fields=("app_registration", "state"), name="consent_request_by_app"),)

    def __str__(self) -> str:
        return f"Consent for {self.connection_name}"

    @property
    def is_open(self) -> bool:
        """Whether its story goes on."""
        return self.closed_at is None

    @property
    def owner_id(self) -> int | None:
        """Who may read its audit events besides IT admins and auditors."""
        return self.requester_id

    @property
    def permission_names(self) -> tuple[str, ...]:
        """What is asked for, as short names."""
        return tuple(self.permissions.split())
