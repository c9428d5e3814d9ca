from django.db import models


class SignInLimit(models.Model):
    """How often sign-ins were tried by one name, address or browser in the current window.

    services/people/sign_in_limits.py reads and writes it; rows are deleted when their window is over.
    """

    class Kind(models.TextChoices):
        OVERALL = "overall", "all sign-ins"
        ADDRESS = "address", "address"
        NAME = "name", "name"
        PAIR = "pair", "name and address"
        DEVICE = "device", "known browser"
        SECOND_FACTOR = "second_factor", "second factor"
        ALL_STARTS = "all_starts", "sign-ins begun from all addresses"
        START = "start", "sign-ins begun from one address"
        REFUSED = "refused", "sign-ins refused from one address"
        # Not counted: an address from which the person has signed in.
        KNOWN_ADDRESS = "known_address", "known address"

    kind = models.CharField(max_length=20, choices=Kind)
    key = models.CharField(max_length=64)  # keyed digest of the name, network or browser
    label = models.CharField(max_length=200, blank=True)  # the name or address, for the audit trail
    count = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)  # attempts refused during the pause
    ends_at = models.DateTimeField()  # of the window or the pause
    is_recorded = models.BooleanField(default=False)  # whether the first failure has its audit event
    paused_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("kind", "key"), name="sign_in_limit_once"),)
        indexes = (models.Index(fields=("ends_at",), name="sign_in_limit_end"),)

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.label}: {self.count}"
