import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.fields import SecretField


class SecondFactor(models.Model):
    """An authenticator app or a passkey, which a person with a local password also needs to sign in."""

    class Kind(models.TextChoices):
        APP = "app", "Authenticator app"
        PASSKEY = "passkey", "Passkey"

    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)  # the encrypted secret is bound to it
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="second_factors")
    kind = models.CharField(max_length=10, choices=Kind)
    name = models.CharField(max_length=100)
    # Only for an authenticator app: the shared key, and the time step of the last code, which is not accepted again.
    secret = SecretField()
    last_step = models.BigIntegerField(default=0)
    # Only for a passkey, both in base64url. The counter reveals copies of security keys.
    credential_id = models.CharField(max_length=1400, blank=True)
    public_key = models.TextField(blank=True)
    sign_count = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("created_at", "pk")
        constraints = (
            models.UniqueConstraint(fields=("credential_id",), condition=Q(kind="passkey"), name="passkey_once"),
            models.UniqueConstraint(fields=("person", "name"), name="second_factor_name_once"),
        )

    def __str__(self) -> str:
        return self.name


class RecoveryCode(models.Model):
    """A code that replaces a second factor once. Only its keyed digest is stored."""

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64)
    used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("person", "digest"), name="recovery_code_once"),)

    def __str__(self) -> str:
        return f"Recovery code {self.pk}"
