from django.db import models


class KeyUsage(models.Model):
    """The number of values in one encrypted column under one key, at the last count. Written by one service only."""

    table = models.CharField(max_length=63)
    column = models.CharField(max_length=63)
    key_id = models.CharField(max_length=8, blank=True)  # connections.keys.key_id; empty: the value has no key ID
    # Whether these values were moved or altered. A key decrypts them, but they are refused.
    altered = models.BooleanField(default=False)
    count = models.PositiveBigIntegerField()
    counted_at = models.DateTimeField()

    class Meta:
        ordering = ("table", "column", "key_id", "altered")
        constraints = (
            models.UniqueConstraint(fields=("table", "column", "key_id", "altered"), name="key_usage_counted_once"),
        )

    def __str__(self) -> str:
        return f"{self.count} values of {self.table}.{self.column} under {self.key_id or 'no key'}"


class RunningProcess(models.Model):
    """A web, worker or beat process, with the IDs of its encryption keys. Every process updates its row every few
    seconds.
    """

    name = models.CharField(max_length=120, unique=True)  # for example "web host:4711"
    key_ids = models.JSONField()  # in order; the first key encrypts
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "running processes"

    def __str__(self) -> str:
        return self.name
