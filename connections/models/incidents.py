from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.app_registrations import AppRegistration
from connections.models.connections import Connection
from connections.models.mailboxes import SharedMailbox
from connections.models.tenants import Tenant


class Incident(models.Model):
    """A problem with one cause, whatever the number of connections it affects. Kept after it is resolved."""

    class Kind(models.TextChoices):
        APP_REGISTRATION = "app_registration", "App registration rejected"
        ACCOUNT = "account", "Sign-in required"
        CONSENT = "consent", "Consent required"
        POLICY = "policy", "Blocked by policy"
        MAILBOX = "mailbox", "Shared mailbox not reachable"
        ENCRYPTION_KEY = "encryption_key", "Encryption key missing"
        OUTAGE = "outage", "Microsoft unreachable"
        HAND_OVER = "hand_over", "New owner sign-in"
        ALTERED_SECRET = "altered_secret", "Stored secret moved or altered"
        LEAVER = "leaver", "Owner has left"
        AUDIT_TRAIL = "audit_trail", "Audit trail not trustworthy"
        TENANT = "tenant", "Tenant not registered"
        PORTAL_SIGN_IN = "portal_sign_in", "Portal sign-in rejected"
        CREDENTIAL_RENEWAL = "credential_renewal", "Credential not renewed"

    kind = models.CharField(max_length=20, choices=Kind)
    # Identifies the cause, for example "app:12". Unique among open incidents.
    key = models.CharField(max_length=200)
    title = models.CharField(max_length=320)  # stored, so that it remains when the object is removed
    code = models.CharField(max_length=60, blank=True)
    cause = models.TextField(blank=True)
    action = models.TextField(blank=True)
    who = models.CharField(max_length=10, choices=Connection.Who, default=Connection.Who.IT_ADMIN)
    reference = models.CharField(max_length=200, blank=True)  # the data that Microsoft's support asks for
    # The person who can fix it; null: the IT admins, or nobody (see ``who``).
    assignee = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="incidents")
    assignee_name = models.CharField(max_length=320, blank=True)
    app_registration = models.ForeignKey(AppRegistration, models.SET_NULL, null=True, related_name="incidents")
    tenant = models.ForeignKey(Tenant, models.SET_NULL, null=True, related_name="incidents")
    mailbox = models.ForeignKey(SharedMailbox, models.SET_NULL, null=True, related_name="incidents")
    # The person who left, if that is the cause.
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    opened_at = models.DateTimeField()
    seen_at = models.DateTimeField()  # when the problem was last observed
    closed_at = models.DateTimeField(null=True)
    # How many reminders were sent, and when the next one is due (services.notifications.alerts).
    reminders = models.PositiveIntegerField(default=0)
    remind_after = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-opened_at", "-pk")
        constraints = (
            models.UniqueConstraint(fields=("key",), condition=Q(closed_at=None), name="incident_open_once"),
        )
        indexes = (
            models.Index(fields=("-opened_at", "-id"), name="incident_by_time"),
            models.Index(fields=("remind_after",), condition=Q(closed_at=None), name="incident_reminder_due"),
            models.Index(fields=("-opened_at", "-id"), condition=Q(closed_at=None), name="incident_open"),
        )

    def __str__(self) -> str:
        return self.title

    @property
    def is_task(self) -> bool:
        """Whether the incident needs attention although nothing is broken yet."""
        return self.kind in (self.Kind.HAND_OVER, self.Kind.LEAVER, self.Kind.TENANT)

    @property
    def is_open(self) -> bool:
        return self.closed_at is None


class AffectedConnection(models.Model):
    incident = models.ForeignKey(Incident, models.CASCADE, related_name="affected")
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="affected_by")
    connection_name = models.CharField(max_length=120)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    owner_name = models.CharField(max_length=320)
    since = models.DateTimeField()
    healed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("connection_name", "pk")
        constraints = (models.UniqueConstraint(fields=("incident", "connection"), name="connection_once_per_incident"),)
        indexes = (
            models.Index(fields=("connection",), condition=Q(healed_at=None), name="affected_not_healed"),
            models.Index(fields=("incident", "connection_name", "id"), name="affected_by_name"),
        )

    def __str__(self) -> str:
        return f"{self.connection_name} in {self.incident}"
