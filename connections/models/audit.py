from enum import StrEnum
from typing import Any, NoReturn

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError("The audit trail is append-only.")


class AppendOnlyQuerySet(models.QuerySet[Any]):
    """Rows that are only ever inserted, which triggers also enforce. Only services.operations.retention deletes old
    rows.
    """

    update = bulk_update = delete = _refuse


class AppendOnly(models.Model):
    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            _refuse()
        super().save(*args, **kwargs)

    delete = _refuse


class AuditAction(StrEnum):
    """The actions of audit events, as ``noun.verb``. Filters and API clients rely on the strings."""

    ACCESS_DENIED = "access.denied"
    ACCESS_REVIEW_CANCELLED = "access_review.cancelled"
    ACCESS_REVIEW_CLOSED = "access_review.closed"
    ACCESS_REVIEW_PLANNED = "access_review.planned"
    ACCESS_REVIEW_SHARE_CONFIRMED = "access_review.share_confirmed"
    ACCESS_REVIEW_SHARE_REMOVED = "access_review.share_removed"
    ACCESS_REVIEW_STARTED = "access_review.started"
    ACCOUNT_ADDED = "account.added"
    ACCOUNT_ADMITTED = "account.admitted"
    ACCOUNT_ALERTS_CHOSEN = "account.alerts_chosen"
    ACCOUNT_BACK = "account.back"
    ACCOUNT_CHANGED = "account.changed"
    ACCOUNT_CONFIRMED = "account.confirmed"
    ACCOUNT_DISABLED = "account.disabled"
    ACCOUNT_ENABLED = "account.enabled"
    ACCOUNT_GROUPS_LEFT_OUT = "account.groups_left_out"
    ACCOUNT_LEFT = "account.left"
    ACCOUNT_PASSWORD_CHANGED = "account.password_changed"  # noqa: S105 - an action, no secret
    ACCOUNT_RECOVERY_CODE_USED = "account.recovery_code_used"
    ACCOUNT_RECOVERY_CODES_MADE = "account.recovery_codes_made"
    ACCOUNT_REMOVED = "account.removed"
    ACCOUNT_ROLES_CHANGED = "account.roles_changed"
    ACCOUNT_SECOND_FACTOR_ADDED = "account.second_factor_added"
    ACCOUNT_SECOND_FACTOR_REMOVED = "account.second_factor_removed"
    ACCOUNT_SECOND_FACTORS_RESET = "account.second_factors_reset"
    ACCOUNT_SESSION_ENDED = "account.session_ended"
    ACCOUNT_SIGN_IN_FAILED = "account.sign_in_failed"
    ACCOUNT_SIGNED_IN = "account.signed_in"
    ACCOUNT_SIGNED_OUT = "account.signed_out"
    ACCOUNT_SIGNED_OUT_EVERYWHERE = "account.signed_out_everywhere"
    ACCOUNT_UPDATED = "account.updated"
    ALERT_CHANNEL_ADDED = "alert_channel.added"
    ALERT_CHANNEL_CHANGED = "alert_channel.changed"
    ALERT_CHANNEL_DISABLED = "alert_channel.disabled"
    ALERT_CHANNEL_ENABLED = "alert_channel.enabled"
    ALERT_CHANNEL_REMOVED = "alert_channel.removed"
    ALERT_CHANNEL_SECRET_REPLACED = "alert_channel.secret_replaced"  # noqa: S105 - an action, no secret
    API_KEY_ISSUED = "api_key.issued"
    API_KEY_LIMITED = "api_key.limited"
    API_KEY_OLD_SECRET_ENDED = "api_key.old_secret_ended"  # noqa: S105 - an action, no secret
    API_KEY_REVOKED = "api_key.revoked"
    API_KEY_ROTATED = "api_key.rotated"
    APP_REGISTRATION_ADDED = "app_registration.added"
    APP_REGISTRATION_CHANGED = "app_registration.changed"
    APP_REGISTRATION_HEALED = "app_registration.healed"
    APP_REGISTRATION_MERGED = "app_registration.merged"
    APP_REGISTRATION_REJECTED = "app_registration.rejected"
    APP_REGISTRATION_REMOVED = "app_registration.removed"
    APP_REGISTRATION_TENANT_ADDED = "app_registration.tenant_added"
    APP_REGISTRATION_TENANT_HEALED = "app_registration.tenant_healed"
    APP_REGISTRATION_TENANT_REJECTED = "app_registration.tenant_rejected"
    APP_REGISTRATION_TENANT_REMOVED = "app_registration.tenant_removed"
    APP_REGISTRATION_VERIFIED = "app_registration.verified"
    APPROVAL_APPROVED = "approval.approved"
    APPROVAL_DECLINED = "approval.declined"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_WITHDRAWN = "approval.withdrawn"
    AUDIT_EXPORT_STARTED = "audit.export_started"
    AUDIT_EXPORTED = "audit.exported"
    AUDIT_PRUNED = "audit.pruned"
    AUDIT_RESTORE_DECLARED = "audit.restore_declared"
    AUDIT_STREAM_MOVED = "audit.stream_moved"
    AUDIT_VERIFIED = "audit.verified"
    BULK_ACTION_STARTED = "bulk_action.started"
    BULK_ACTION_STOPPED = "bulk_action.stopped"
    CHANGE_REQUEST_APPROVED = "change_request.approved"
    CHANGE_REQUEST_ASKED = "change_request.asked"
    CHANGE_REQUEST_DECLINED = "change_request.declined"
    CHANGE_REQUEST_USED = "change_request.used"
    CHANGE_REQUEST_WITHDRAWN = "change_request.withdrawn"
    CONFIGURATION_APPLIED = "configuration.applied"
    CONNECTION_CHANGED = "connection.changed"
    CONNECTION_CHECKED = "connection.checked"
    CONNECTION_CONNECTED = "connection.connected"
    CONNECTION_CREATED = "connection.created"
    CONNECTION_DISABLED = "connection.disabled"
    CONNECTION_EMERGENCY_ACCESS = "connection.emergency_access"
    CONNECTION_ENABLED = "connection.enabled"
    CONNECTION_FLAGGED = "connection.flagged"
    CONNECTION_HAND_OVER_COMPLETED = "connection.hand_over_completed"
    CONNECTION_HANDED_OVER = "connection.handed_over"
    CONNECTION_HEALED = "connection.healed"
    CONNECTION_MAILBOX_ATTACHED = "connection.mailbox_attached"
    CONNECTION_MAILBOX_DETACHED = "connection.mailbox_detached"
    CONNECTION_MAILBOX_PROBED = "connection.mailbox_probed"
    CONNECTION_RECONNECTED = "connection.reconnected"
    CONNECTION_REMOVED = "connection.removed"
    CONNECTION_RESOURCE_CONNECTED = "connection.resource_connected"
    CONNECTION_RESOURCE_FLAGGED = "connection.resource_flagged"
    CONNECTION_SENDING_TESTED = "connection.sending_tested"
    CONNECTION_SHARE_CHANGED = "connection.share_changed"
    CONNECTION_SHARE_EXPIRED = "connection.share_expired"
    CONNECTION_SHARED = "connection.shared"
    CONNECTION_SIGN_IN_FAILED = "connection.sign_in_failed"
    CONNECTION_SIGN_IN_LINK_MADE = "connection.sign_in_link_made"
    CONNECTION_SIGN_IN_STARTED = "connection.sign_in_started"
    CONNECTION_TAGGED = "connection.tagged"
    CONNECTION_TENANT_BOUND = "connection.tenant_bound"
    CONNECTION_TOKEN_FETCHED = "connection.token_fetched"  # noqa: S105 - an action, no secret
    CONNECTION_UNSHARED = "connection.unshared"
    CONSENT_DECLINED = "consent.declined"
    CONSENT_FAILED = "consent.failed"
    CONSENT_GRANTED = "consent.granted"
    CONSENT_PARTIAL = "consent.partial"
    CONSENT_REQUESTED = "consent.requested"
    CONSENT_VERIFIED = "consent.verified"
    CONSENT_REQUEST_APPROVED = "consent_request.approved"
    CONSENT_REQUEST_ASKED = "consent_request.asked"
    CONSENT_REQUEST_DECLINED = "consent_request.declined"
    CONSENT_REQUEST_FAILED = "consent_request.failed"
    CONSENT_REQUEST_GRANTED = "consent_request.granted"
    CONSENT_REQUEST_VERIFIED = "consent_request.verified"
    CONSENT_REQUEST_WITHDRAWN = "consent_request.withdrawn"
    CREDENTIAL_ACCEPTED = "credential.accepted"
    CREDENTIAL_ADDED = "credential.added"
    CREDENTIAL_EXPIRY_ENTERED = "credential.expiry_entered"
    CREDENTIAL_EXPIRY_READ = "credential.expiry_read"
    CREDENTIAL_REJECTED = "credential.rejected"
    CREDENTIAL_RENEWAL_FAILED = "credential.renewal_failed"
    CREDENTIAL_RENEWAL_STARTED = "credential.renewal_started"
    CREDENTIAL_RENEWED = "credential.renewed"
    CREDENTIAL_RETIRED = "credential.retired"
    CREDENTIAL_UNLISTED = "credential.unlisted"
    DELIVERY_TRIED_AGAIN = "delivery.tried_again"
    ENCRYPTION_KEYS_ROTATED = "encryption_keys.rotated"
    INCIDENT_CLOSED = "incident.closed"
    INCIDENT_OPENED = "incident.opened"
    ISSUER_KEY_ADDED = "issuer_key.added"
    ISSUER_KEY_REMOVED = "issuer_key.removed"
    LIST_EXPORT_STARTED = "list.export_started"
    LIST_EXPORTED = "list.exported"
    MAILBOX_CHANGED = "mailbox.changed"
    MAILBOX_REGISTERED = "mailbox.registered"
    MAILBOX_REMOVED = "mailbox.removed"
    POLICY_CHANGED = "policy.changed"
    POLICY_LOOSENED = "policy.loosened"
    POLICY_TIGHTENED = "policy.tightened"
    REFERENCE_CHANGED = "reference.changed"
    REFERENCE_CREATED = "reference.created"
    REFERENCE_POINTED = "reference.pointed"
    REFERENCE_REMOVED = "reference.removed"
    SERVICE_ACCOUNT_CHANGED = "service_account.changed"
    SERVICE_ACCOUNT_CREATED = "service_account.created"
    SERVICE_ACCOUNT_DISABLED = "service_account.disabled"
    SERVICE_ACCOUNT_ENABLED = "service_account.enabled"
    SETUP_CONFIRMED = "setup.confirmed"
    SETUP_DISMISSED = "setup.dismissed"
    SETUP_REOPENED = "setup.reopened"
    TEAM_ADDED = "team.added"
    TEAM_CHANGED = "team.changed"
    TEAM_MEMBER_ADDED = "team.member_added"
    TEAM_MEMBER_REMOVED = "team.member_removed"
    TEAM_REMOVED = "team.removed"
    TENANT_ADDED = "tenant.added"
    TENANT_CHANGED = "tenant.changed"
    TENANT_LOOKED_UP = "tenant.looked_up"
    TENANT_REMOVED = "tenant.removed"


class AuditEvent(AppendOnly):
    """An action, with its actor and object. Append-only. Stores names, so that it outlives the objects it refers to."""

    class Outcome(models.TextChoices):
        DONE = "done", "Done"
        DENIED = "denied", "Denied"
        FAILED = "failed", "Failed"

    at = models.DateTimeField(default=timezone.now, editable=False)
    action = models.CharField(max_length=60)  # an AuditAction
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.DONE)
    # Null for the portal itself or a deleted account; actor_name says which.
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="audit_events", db_constraint=False
    )
    # The actor's original ID, which is sealed. The foreign key becomes NULL on deletion.
    actor_ref = models.BigIntegerField(null=True, editable=False)
    actor_name = models.CharField(max_length=320)
    target_type = models.CharField(max_length=40)  # the model's name, for example Connection
    target_id = models.CharField(max_length=40, blank=True)
    target_name = models.CharField(max_length=320)
    # {field: [before, after]} or other facts. Never a secret.
    changes = models.JSONField(default=dict)
    owner_id = models.BigIntegerField(null=True)  # the target's owner at that time, who may read the event
    request_id = models.CharField(max_length=36, blank=True)
    address = models.GenericIPAddressField(null=True)

    class Meta:
        ordering = ("-pk",)
        indexes = (
            models.Index(fields=("target_type", "target_id", "-id"), name="audit_by_target"),
            models.Index(fields=("actor", "-id"), name="audit_by_actor"),
            models.Index(fields=("action", "-id"), name="audit_by_action"),
            models.Index(fields=("at",), name="audit_by_time"),
            models.Index(fields=("owner_id", "-id"), name="event_by_owner"),
            models.Index(fields=("at",), condition=~Q(outcome="done"), name="event_not_done"),
        )

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_name} {self.action} {self.target_name}"


class RepeatedDenial(models.Model):
    """How often an action was denied to a person within a minute. Repetitions are later recorded as a single event."""

    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    tried = models.CharField(max_length=100)  # method and URL name, for example "POST connection_disable"
    target_type = models.CharField(max_length=40)
    target_id = models.CharField(max_length=40, blank=True)
    minute = models.DateTimeField()
    event = models.BigIntegerField()  # ID of the first denial's event
    count = models.PositiveIntegerField(default=1)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("person", "tried", "target_type", "target_id", "minute"), name="denial_once_per_minute"
            ),
        )

    def __str__(self) -> str:
        return f"{self.tried}: {self.count} at {self.minute:%Y-%m-%d %H:%M}"
