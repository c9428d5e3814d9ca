"""Requests that an administrator of the directory grants consent."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.app_registrations import AppRegistration


class ConsentRequest(models.Model):
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

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="consent_requests")
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
