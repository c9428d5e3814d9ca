import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.fields import SecretField
from connections.models.tenants import Tenant


class AuthenticationType(models.TextChoices):
    AUTHORIZATION_CODE = "authorization_code", "Delegated: a user signs in"
    CLIENT_CREDENTIALS = "client_credentials", "App-only: the application acts without a user"


class AppRegistration(models.Model):
    """An app registration in Entra, what it may be used for, and whether Microsoft accepts its credentials.

    There is one object with one set of credentials, however many tenants use it. Its state in one of the tenants is an
    ``AppConsent``.
    """

    class Audience(models.TextChoices):
        SINGLE = "single", "Single tenant: accounts in this directory only"
        MULTI = "multi", "Multitenant: accounts in any directory"

    name = models.CharField(max_length=120)
    # The tenant of the app registration, or a shared endpoint if that is unknown. The credentials are tested there.
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="app_registrations")
    # A copy of the tenant's environment for the constraint. It does not change while the tenant is in use.
    environment = models.CharField(max_length=20, editable=False)
    client_id = models.CharField("application (client) ID", max_length=36)
    audience = models.CharField(max_length=10, choices=Audience, default=Audience.SINGLE)
    allows_delegated = models.BooleanField("delegated connections", default=True)
    allows_app_only = models.BooleanField("app-only connections", default=False)
    # Keys of connections.microsoft.capabilities that are preselected when connecting.
    default_capabilities = models.JSONField(default=list, blank=True)
    # The application's object ID in its home directory, which it needs to change its own credentials. Empty: unknown.
    object_id = models.CharField("object ID", max_length=36, blank=True)
    # Whether the portal renews secrets and certificates automatically, if the organisation's policy allows it.
    renews_credentials = models.BooleanField("automatic renewal of credentials", default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    # Whether a member added it. Only ``created_by`` can then connect through it, until an IT admin opens it to
    # everyone.
    is_personal = models.BooleanField(default=False)

    # When Microsoft last accepted the credentials; null: never.
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When Microsoft began to reject the registration itself. Its connections wait and keep their status.
    rejected_at = models.DateTimeField(null=True, blank=True, editable=False)
    rejected_code = models.CharField(max_length=60, blank=True, editable=False)
    rejected_cause = models.TextField(blank=True, editable=False)
    rejected_action = models.TextField(blank=True, editable=False)
    # When to try again while it is rejected. The token scheduler claims the attempt by moving this time forward.
    canary_after = models.DateTimeField(null=True, blank=True, editable=False)
    # When to read the expiry dates from Microsoft Graph; null: now. A worker claims this by moving the time forward.
    read_expiries_after = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            models.UniqueConstraint(fields=("environment", "client_id"), name="app_once_per_environment"),
            models.UniqueConstraint(fields=("name",), name="app_name_once"),
            models.CheckConstraint(
                condition=Q(allows_delegated=True) | Q(allows_app_only=True), name="app_allows_something"
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def is_ready(self) -> bool:
        return self.verified_at is not None and self.rejected_at is None

    @property
    def is_multitenant(self) -> bool:
        return self.audience == self.Audience.MULTI

    def allows(self, authentication_type: str) -> bool:
        if authentication_type == AuthenticationType.CLIENT_CREDENTIALS:
            return self.allows_app_only
        return self.allows_delegated


class AppConsent(models.Model):
    """An app registration in one tenant, with its consent, roles and state there. Entra: "enterprise application".

    Every connection has one. Facts that apply to the app registration in all tenants, such as rejected credentials, are
    stored there instead.
    """

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="consents", db_index=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="app_consents")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    # When a token first showed that the application exists in the tenant. Null: it has not received a token there yet.
    seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The application roles in the last app-only token (short names, separated by spaces), and when they last changed.
    granted_roles = models.TextField(blank=True, editable=False)
    roles_changed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When Microsoft began to reject the application in this tenant only. Its connections there wait.
    rejected_at = models.DateTimeField(null=True, blank=True, editable=False)
    rejected_code = models.CharField(max_length=60, blank=True, editable=False)
    rejected_cause = models.TextField(blank=True, editable=False)
    rejected_action = models.TextField(blank=True, editable=False)
    # When to try again while it is rejected; see AppRegistration.canary_after.
    canary_after = models.DateTimeField(null=True, blank=True, editable=False)
    # Until when Microsoft throttles the application in this tenant (429, Retry-After).
    paused_until = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ("tenant__name", "pk")
        constraints = (models.UniqueConstraint(fields=("app_registration", "tenant"), name="app_consent_once"),)
        indexes = (
            models.Index(fields=("canary_after",), condition=Q(rejected_at__isnull=False), name="app_consent_rejected"),
        )

    def __str__(self) -> str:
        return f"{self.app_registration} in {self.tenant}"

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.granted_roles.split())


class AppCredentialQuerySet(models.QuerySet["AppCredential"]):
    def live(self) -> "AppCredentialQuerySet":
        """Return the active credentials in the order of use: accepted before rejected ones, then the newest first."""
        order = (models.F("rejected_at").asc(nulls_first=True), "-created_at", "-pk")
        return self.filter(retired_at=None).order_by(*order)


class AppCredential(models.Model):
    """A client secret, certificate or federated credential. If several are active, they are tried in order."""

    class Kind(models.TextChoices):
        SECRET = "secret", "Client secret"
        CERTIFICATE = "certificate", "Certificate"
        FEDERATED = "federated", "Federated credential"

    class Source(models.TextChoices):
        """The issuer of the tokens that a federated credential presents to Microsoft."""

        PORTAL = "portal", "This portal"
        FILE = "file", "Token file"

    app_registration = models.ForeignKey(AppRegistration, models.CASCADE, related_name="credentials")
    kind = models.CharField(max_length=12, choices=Kind)
    label = models.CharField(max_length=120, blank=True)
    # The encrypted columns are bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    secret = SecretField()
    private_key = SecretField()  # PEM, PKCS#8
    certificate = models.TextField(blank=True)  # PEM, public
    # SHA-256 thumbprint of the certificate, in upper-case hex as in Entra's portal.
    thumbprint = models.CharField(max_length=64, blank=True)
    # The first three characters of a secret, as in Graph's passwordCredential.hint.
    hint = models.CharField(max_length=3, blank=True)
    # The issuer of a federated credential's tokens; empty for other kinds.
    source = models.CharField(max_length=10, choices=Source, blank=True)
    # Microsoft's keyId of a secret or certificate, which the application needs to remove it. Empty: unknown.
    key_id = models.CharField(max_length=36, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    # When Microsoft Graph confirmed the expiry date; null: a person entered it.
    expiry_read_at = models.DateTimeField(null=True, blank=True, editable=False)
    # When the credential was first missing from the app registration in Entra. Microsoft will reject it.
    unlisted_at = models.DateTimeField(null=True, blank=True, editable=False)
    # The smallest threshold, in days before expiry, at which a warning was sent.
    warned_days = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    rejected_at = models.DateTimeField(null=True, blank=True, editable=False)
    rejected_code = models.CharField(max_length=60, blank=True, editable=False)
    retired_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = AppCredentialQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-pk")
        constraints = (
            models.CheckConstraint(
                condition=Q(kind="secret", private_key__isnull=True, certificate="", source="")
                | Q(kind="certificate", secret__isnull=True, source="")
                | Q(
                    kind="federated",
                    secret__isnull=True,
                    private_key__isnull=True,
                    certificate="",
                    source__in=("portal", "file"),
                    expires_at__isnull=True,
                ),
                name="credential_is_one_kind",
            ),
        )

    def __str__(self) -> str:
        return (
            self.label or f"{self.get_kind_display()} {self.hint + '…' if self.hint else self.thumbprint[:8]}".strip()
        )

    @property
    def subject(self) -> str:
        """The subject of the portal's assertions. It is unique forever, because a trigger protects ``identity``."""
        return f"app-registration:{self.identity}"

    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()
