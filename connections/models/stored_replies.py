import uuid

from django.db import models

from connections.fields import SecretField
from connections.models.api_keys import ApiKey


class StoredReply(models.Model):
    """A POST request with an Idempotency-Key, and its response, kept for a day.

    The row is created as a claim, with digests of the key and the request. The encrypted response is added later.
    """

    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="stored_replies", db_index=False)
    digest = models.CharField(max_length=64)  # digest of the Idempotency-Key
    request_digest = models.CharField(max_length=64)  # digest of method, address and body
    started_at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True)  # null: still running
    # The encrypted column is bound to this value, so a trigger refuses to change it.
    identity = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    answer = SecretField()  # JSON with body and headers

    class Meta:
        verbose_name_plural = "stored replies"
        constraints = (models.UniqueConstraint(fields=("key", "digest"), name="reply_once_per_key"),)
        indexes = (models.Index(fields=("started_at",), name="reply_by_start"),)

    def __str__(self) -> str:
        return f"{self.status or 'running'} for {self.key}"
