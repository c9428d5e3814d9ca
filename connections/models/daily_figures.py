from django.db import models


class DailyFigure(models.Model):
    """A number about the whole portal on one day (UTC), for charts. services/operations/daily_figures.py lists the
    names.
    """

    day = models.DateField()
    name = models.CharField(max_length=80)  # for example "token_requests" or "status:active"
    value = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("day", "name")
        constraints = (models.UniqueConstraint(fields=("day", "name"), name="figure_once_per_day"),)

    def __str__(self) -> str:
        return f"{self.name} on {self.day}: {self.value}"


class DailyUse(models.Model):
    """How often a key requested a connection's tokens on one day (UTC). Like TokenFetch, it outlives both of them."""

    day = models.DateField()
    connection_ref = models.BigIntegerField()
    key_ref = models.BigIntegerField()
    key_name = models.CharField(max_length=120)
    owner_name = models.CharField(max_length=320)
    requests = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("day", "pk")
        constraints = (
            models.UniqueConstraint(fields=("connection_ref", "day", "key_ref"), name="use_once_per_day_and_key"),
        )
        indexes = (models.Index(fields=("day",), name="use_by_day"),)

    def __str__(self) -> str:
        return f"{self.requests} by {self.key_name} on {self.day}"


class DailyTopKey(models.Model):
    """One of the API keys with the most token requests on one day (UTC)."""

    day = models.DateField()
    rank = models.PositiveSmallIntegerField()
    key_name = models.CharField(max_length=120)
    owner_name = models.CharField(max_length=320)
    requests = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ("-day", "rank")
        constraints = (models.UniqueConstraint(fields=("day", "rank"), name="top_key_once_per_rank"),)

    def __str__(self) -> str:
        return f"{self.rank}. {self.key_name} on {self.day}"
