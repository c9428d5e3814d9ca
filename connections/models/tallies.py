from typing import Any

from django.db import models
from django.db.models import Sum


class TallyQuerySet(models.QuerySet["Tally"]):
    def connections(self) -> "TallyQuerySet":
        """Select the numbers of connections by app consent and status."""
        return self.filter(subject=Tally.CONNECTIONS)

    def totals(self, *columns: str) -> Any:
        """Return the sum for each combination of the columns, as tuples whose last item is the sum."""
        return self.order_by().values_list(*columns).annotate(total=Sum("change")).filter(total__gt=0)


class Tally(models.Model):
    """Numbers of connections, kept up to date by triggers, so that no page has to count a million rows.

    The triggers only add rows, so that transactions never wait for each other. The number is the sum of its rows.
    ``services.operations.tallies`` combines them every minute.
    """

    CONNECTIONS = "connections"  # the number of connections by app consent; the value is the status
    # The number of connections that are not disabled. The value is everything that was granted to them.
    PERMISSIONS = "permissions"

    subject = models.CharField(max_length=20)
    # No foreign key, because the rows of a removed app registration are deleted only after they add up to zero.
    app_consent = models.ForeignKey(
        "AppConsent", models.DO_NOTHING, null=True, related_name="tallies", db_constraint=False, db_index=False
    )
    value = models.TextField(blank=True)
    change = models.IntegerField()

    objects = TallyQuerySet.as_manager()

    class Meta:
        indexes = (models.Index(fields=("subject", "app_consent"), name="tally_by_consent"),)

    def __str__(self) -> str:
        return f"{self.subject}: {self.value} {self.change:+}"
