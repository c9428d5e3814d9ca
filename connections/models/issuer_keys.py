import uuid

from django.db import models

from connections.fields import SecretField


class IssuerKey(models.Model):
    """A key with which the portal signs assertions as an OpenID issuer.

    There is no column for the public part: it is derived from the private key, which is bound to its row. Whoever can
    only write to the database therefore cannot make the portal publish a key of their own.
    """

    # Counts up, so that two workers cannot both create the next key.
    number = models.PositiveIntegerField(unique=True)
    key_id = models.CharField(max_length=43, unique=True)  # "kid": the RFC 7638 thumbprint
    # The encrypted column is bound to it; a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    private_key = SecretField()  # PEM, PKCS#8
    created_at = models.DateTimeField()
    # It signs from this time on, until the next key does. It is published before and for a while after that.
    use_after = models.DateTimeField()

    class Meta:
        ordering = ("number",)

    def __str__(self) -> str:
        return f"Signing key {self.number}"
