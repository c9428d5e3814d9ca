from django.db import models


class SignInLimit(models.Model):
    """The number of sign-in attempts from one name, address or browser in the current window.

    Used only by services/people/sign_in_limits.py. Rows are deleted when their window has ended.
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
        # Not a limit: an address from which the person has signed in before.
        KNOWN_ADDRESS = "known_address", "known address"

    kind = models.CharField(max_length=20, choices=Kind)
    key = models.CharField(max_length=64)  # keyed digest of the name, network or browser
    label = models.CharField(max_length=200, blank=True)  # the name or address, for the audit trail
    count = models.PositiveIntegerField(default=0)
    refused = models.PositiveIntegerField(default=0)  # attempts refused during the pause
    ends_at = models.DateTimeField()  # the end of the window or of the pause
    is_recorded = models.BooleanField(default=False)  # whether the first failure is in the audit trail
    paused_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("kind", "key"), name="sign_in_limit_once"),)
        indexes = (models.Index(fields=("ends_at",), name="sign_in_limit_end"),)

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.label}: {self.count}"
