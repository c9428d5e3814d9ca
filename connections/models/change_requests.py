from django.conf import settings
from django.db import models
from django.db.models import Q

from connections.models.connections import Connection


class ChangeRequest(models.Model):
    """A change that its requester must not make alone, with its exact values and the decision.

    An approval can be used only once.
    """

    class Kind(models.TextChoices):
        SHARE = "share", "Share a connection"
        TRANSFER = "transfer", "Transfer ownership"
        TEAM_MEMBER = "team_member", "Add a team member"
        TEAM_GROUP = "team_group", "Change a team's Entra group"
        API_KEY = "api_key", "Issue a service account's key"
        POLICY = "policy", "Loosen the policy"

    class State(models.TextChoices):
        WAITING = "waiting", "Awaiting approval"
        APPROVED = "approved", "Approved"
        DECLINED = "declined", "Declined"
        WITHDRAWN = "withdrawn", "Withdrawn"
        USED = "used", "Done"

    kind = models.CharField(max_length=12, choices=Kind)
    # The connection it gives access to, whose owner may decide. Null if there is none, or if there are several owners.
    connection = models.ForeignKey(Connection, models.SET_NULL, null=True, related_name="change_requests")
    title = models.CharField(max_length=320)  # the change as a sentence
    details = models.JSONField(default=list)  # the access that it gives or the changes that it makes, as sentences
    proposal = models.JSONField()  # the exact values; an approval allows only these
    path = models.CharField(max_length=200)  # the page on which the requester makes the change
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="change_requests"
    )
    requested_by_name = models.CharField(max_length=320)
    requested_at = models.DateTimeField()
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    decided_by_name = models.CharField(max_length=320, blank=True)
    decided_at = models.DateTimeField(null=True)
    decision_reason = models.TextField(blank=True)
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-requested_at", "-pk")
        constraints = (
            models.CheckConstraint(
                condition=Q(state="waiting", decided_at=None) | (~Q(state="waiting") & Q(decided_at__isnull=False)),
                name="decided_change_request_says_when",
            ),
        )
        indexes = (
            models.Index(fields=("requested_by", "state"), name="change_request_by_person"),
            models.Index(fields=("-requested_at", "-id"), name="change_request_by_time"),
            models.Index(fields=("-requested_at", "-id"), condition=Q(state="waiting"), name="change_request_waiting"),
        )

    def __str__(self) -> str:
        return self.title

    @property
    def is_about_sharing(self) -> bool:
        """Whether the change only gives access to one connection. Other kinds change things that IT admins manage."""
        return self.kind in (self.Kind.SHARE, self.Kind.TRANSFER)

    @property
    def is_waiting(self) -> bool:
        return self.state == self.State.WAITING

    @property
    def owner_id(self) -> int | None:
        """The person who may read audit events about this request; see AuditEvent.owner_id."""
        return self.requested_by_id
