import uuid

from django.db import models

from connections.fields import SecretField


class IssuerKey(models.Model):
    """A key with which the portal signs assertions as an OpenID issuer.

    The public part has no column. It is derived from the private key, which is bound to its row. An attacker who can
    only write to the database therefore cannot make the portal publish another key.
    """

    # Increases by one, so that two workers cannot both create the next key.
    number = models.PositiveIntegerField(unique=True)
    key_id = models.CharField(max_length=43, unique=True)  # "kid": the RFC 7638 thumbprint
    # The encrypted column is bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    private_key = SecretField()  # PEM, PKCS#8
    created_at = models.DateTimeField()
    # From when the key signs, until the next key replaces it. It is published earlier, and for a while afterwards.
    use_after = models.DateTimeField()

    class Meta:
        ordering = ("number",)

    def __str__(self) -> str:
        return f"Signing key {self.number}"
