from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from connections.models.connections import Connection
from connections.models.sharing import Team

DEFAULT_PREFIX = "default:"  # begins the names of personal default references; other names can't contain a colon


class ConnectionReference(models.Model):
    """A stable name that automations use for a connection, and that can later be pointed at another connection.

    A reference gives no access: requesting a token through it requires the right to use the connection. If
    ``connector`` is set, the reference is its owner's default for that connector and applies only to their own calls.
    The name of a removed reference stays taken, so that nobody can take over the automations that still use it.
    """

    name = models.CharField(max_length=63)
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="references")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="references")
    # The members of this team may also point the reference at another connection.
    team = models.ForeignKey(Team, models.SET_NULL, null=True, blank=True, related_name="references")
    connector = models.CharField(max_length=40, blank=True)
    description = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    pointed_at = models.DateTimeField(default=timezone.now, editable=False)  # when it was pointed at its connection
    removed_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("name", "pk")
        constraints = (
            # Token requests find a reference by these columns.
            models.UniqueConstraint(fields=("name",), condition=Q(connector=""), name="reference_name_once"),
            models.UniqueConstraint(
                fields=("owner", "name"), condition=~Q(connector=""), name="one_default_per_connector"
            ),
            models.CheckConstraint(
                condition=(Q(connector="") & ~Q(name__startswith=DEFAULT_PREFIX))
                | (~Q(connector="") & Q(name__startswith=DEFAULT_PREFIX)),
                name="only_defaults_are_named_so",
            ),
        )
        indexes = (models.Index(fields=("name", "id"), condition=Q(removed_at=None), name="reference_by_name"),)

    def __str__(self) -> str:
        return self.name

    @property
    def is_default(self) -> bool:
        """Whether this is its owner's default for a connector."""
        return bool(self.connector)
