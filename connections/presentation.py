"""How states are shown to people: a word, a tone, and for connections the cause and who must act."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from django.db import models
from django.utils import timezone

from connections.errors import ApprovalNeeded
from connections.models import (
    AccessReview,
    AlertChannel,
    ApiKey,
    AppCredential,
    AppRegistration,
    Approval,
    AuditEvent,
    AuditVerification,
    Connection,
    ConsentLink,
    ConsentRequest,
    Incident,
    MailboxAccess,
    ReviewItem,
    User,
)

OK, WAITING, WARNING, BROKEN, OFF = "ok", "waiting", "warning", "broken", "off"

BLOCKED_BY_APP = "Blocked by its app registration"

# The icon beside the word: colour alone is not accessible.
SIGNS = {
    OK: "circle-check",
    WAITING: "circle-dashed",
    WARNING: "alert-triangle",
    BROKEN: "circle-x",
    OFF: "player-pause",
}


@dataclass(frozen=True, slots=True)
class Badge:
    """A state in a word, and its tone."""

    word: str
    tone: str

    @property
    def sign(self) -> str:
        return SIGNS[self.tone]


@dataclass(frozen=True, slots=True)
class State:
    """The state of a connection: cause, what to do, and who must do it; empty strings where there is nothing to say."""

    badge: Badge
    cause: str = ""
    action: str = ""
    who: str = ""
    since: datetime | None = None

    @property
    def is_broken(self) -> bool:
        return self.badge.tone in (WARNING, BROKEN)


_STATUS_TONES = {
    Connection.Status.PENDING: WAITING,
    Connection.Status.ACTIVE: OK,
    Connection.Status.RECONNECT_NEEDED: BROKEN,
    Connection.Status.CONSENT_NEEDED: WARNING,
    Connection.Status.BLOCKED: BROKEN,
    Connection.Status.DISABLED: OFF,
}
# For models whose badge is just one of their columns: the tone of each of its values.
_TONES: dict[type[models.Model], dict[str, str]] = {
    MailboxAccess: {
        MailboxAccess.State.UNPROBED: WAITING,
        MailboxAccess.State.REACHABLE: OK,
        MailboxAccess.State.UNREACHABLE: BROKEN,
        MailboxAccess.State.UNKNOWN: WARNING,
    },
    ConsentLink: {
        ConsentLink.State.OPEN: WAITING,
        ConsentLink.State.GRANTED: WARNING,
        ConsentLink.State.VERIFIED: OK,
        ConsentLink.State.DECLINED: BROKEN,
        ConsentLink.State.FAILED: BROKEN,
    },
    ConsentRequest: {
        ConsentRequest.State.ASKED: WAITING,
        ConsentRequest.State.APPROVED: WAITING,
        ConsentRequest.State.GRANTED: WARNING,
        ConsentRequest.State.VERIFIED: OK,
        ConsentRequest.State.DECLINED: BROKEN,
        ConsentRequest.State.FAILED: BROKEN,
        ConsentRequest.State.WITHDRAWN: OFF,
    },
    Approval: {
        Approval.State.WAITING: WAITING,
        Approval.State.APPROVED: OK,
        Approval.State.DECLINED: BROKEN,
        Approval.State.WITHDRAWN: OFF,
    },
    ReviewItem: {
        ReviewItem.Decision.OPEN: WAITING,
        ReviewItem.Decision.CONFIRMED: OK,
        ReviewItem.Decision.REMOVED: OFF,
        ReviewItem.Decision.EXPIRED: OFF,
        ReviewItem.Decision.GONE: OFF,
    },
    AuditVerification: {
        AuditVerification.State.WAITING: WAITING,
        AuditVerification.State.RUNNING: WAITING,
        AuditVerification.State.INTACT: OK,
        AuditVerification.State.BROKEN: BROKEN,
    },
    AuditEvent: {
        AuditEvent.Outcome.DONE: OK,
        AuditEvent.Outcome.DENIED: WARNING,
        AuditEvent.Outcome.FAILED: BROKEN,
    },
}
_COLUMNS: dict[type[models.Model], str] = {ReviewItem: "decision", AuditEvent: "outcome"}  # others: "state"

# Used when the connection has no sentences of its own.
_CAUSES = {
    Connection.Status.PENDING: "Nobody has signed in for it yet.",
    Connection.Status.RECONNECT_NEEDED: "Microsoft no longer accepts the sign-in this connection stands on.",
    Connection.Status.CONSENT_NEEDED: "Nobody has yet granted this app registration the permissions it needs.",
    Connection.Status.BLOCKED: "A policy of the organisation stops this connection.",
    Connection.Status.DISABLED: "It was switched off in this portal.",
}
_STARTED_CAUSE = "The sign-in at Microsoft was started but has not come back."
_ACTIONS = {
    Connection.Status.PENDING: "Sign in at Microsoft to finish it, or remove the connection.",
    Connection.Status.RECONNECT_NEEDED: "Sign in again with the same account.",
    Connection.Status.CONSENT_NEEDED: "Grant admin consent for the app registration, then sign in again.",
    Connection.Status.BLOCKED: "Change the policy, then check the connection again.",
}
_WHO = {
    Connection.Status.PENDING: Connection.Who.OWNER,
    Connection.Status.RECONNECT_NEEDED: Connection.Who.OWNER,
    Connection.Status.CONSENT_NEEDED: Connection.Who.IT_ADMIN,
    Connection.Status.BLOCKED: Connection.Who.IT_ADMIN,
}


def badge(thing: models.Model) -> Badge:
    """The badge of anything that has a state. Raises TypeError for a model that has none."""
    if tones := _TONES.get(type(thing)):
        column = _COLUMNS.get(type(thing), "state")
        return Badge(getattr(thing, f"get_{column}_display")(), tones[getattr(thing, column)])
    match thing:
        case Connection():
            return connection_badge(thing)
        case AppRegistration():
            return _app_badge(thing)
        case AppCredential():
            return _credential_badge(thing)
        case AccessReview():
            return _review_badge(thing)
        case Incident():
            return Badge("Open", BROKEN) if thing.is_open else Badge("Healed", OK)
        case AlertChannel():
            return Badge("Switched off", OFF) if thing.disabled_at else Badge("On", OK)
        case ApiKey():
            return _api_key_badge(thing)
        case User():
            return _account_badge(thing)
    raise TypeError(f"{type(thing).__name__} has no state to show.")


def connection_badge(connection: Connection) -> Badge:
    """The badge of a connection; unlike status_badge it also shows "blocked by its app" and "not approved yet"."""
    if connection.is_blocked_by_app:
        return Badge(BLOCKED_BY_APP, BROKEN)
    if connection.status == Connection.Status.PENDING and connection.status_code == ApprovalNeeded.code:
        return Badge("Needs approval first", WAITING)
    return status_badge(Connection.Status(connection.status))


def status_badge(status: Connection.Status) -> Badge:
    return Badge(status.label, _STATUS_TONES[status])


def connection_state(connection: Connection, viewer: User | None = None) -> State:
    """The state of a connection for ``viewer``, who reads "you" where they must act themselves."""
    if connection.is_blocked_by_app:
        app = connection.app_registration
        return State(
            badge=connection_badge(connection),
            cause=f"Microsoft rejects the app registration {app.name}, so this connection waits. "
            f"{app.rejected_cause}".strip(),
            action=app.rejected_action or "Mend the app registration; its connections then recover by themselves.",
            who="an IT admin",
            since=app.rejected_at,
        )
    status = Connection.Status(connection.status)
    if status == Connection.Status.ACTIVE:
        return State(badge=connection_badge(connection))
    default = (
        _STARTED_CAUSE if status == Connection.Status.PENDING and connection.sign_in_started_at else _CAUSES[status]
    )
    return State(
        badge=connection_badge(connection),
        cause=connection.status_cause or default,
        action=connection.status_action or _ACTIONS.get(status, ""),
        who=assigned_to(connection, viewer),
        since=connection.status_since,
    )


def assigned_to(connection: Connection, viewer: User | None = None) -> str:
    """Who must act, as part of a sentence ("the owner, Bob Jones"); empty when nobody must."""
    if connection.is_blocked_by_app:
        return "an IT admin"
    who = connection.status_who or _WHO.get(Connection.Status(connection.status), "")
    if who == Connection.Who.OWNER:
        return "you" if viewer is not None and viewer.pk == connection.owner_id else f"the owner, {connection.owner}"
    return {Connection.Who.IT_ADMIN.value: "an IT admin", Connection.Who.MICROSOFT.value: "Microsoft"}.get(who, "")


def _app_badge(app: AppRegistration) -> Badge:
    if app.rejected_at:
        return Badge("Rejected by Microsoft", BROKEN)
    return Badge("Ready", OK) if app.verified_at else Badge("Not tried yet", WAITING)


def _review_badge(review: AccessReview) -> Badge:
    if review.cancelled_at:
        return Badge("Cancelled", OFF)
    return Badge("Closed", OK) if review.closed_at else Badge("Running", WAITING)


def _credential_badge(credential: AppCredential) -> Badge:
    if credential.retired_at:
        return Badge("Retired", OFF)
    if credential.has_expired():
        return Badge("Expired", BROKEN)
    if credential.rejected_at:
        return Badge("Rejected by Microsoft", BROKEN)
    if credential.expires_at and (credential.expires_at - timezone.now()).days < 30:
        return Badge("Expires soon", WARNING)
    return Badge("Accepted", OK) if credential.verified_at else Badge("Not tried yet", WAITING)


def _api_key_badge(key: ApiKey) -> Badge:
    if key.revoked_at:
        return Badge("Revoked", OFF)
    return Badge("Valid", OK) if key.is_valid() else Badge("Expired", OFF)


def _account_badge(account: User) -> Badge:
    if account.is_service:
        return Badge("Enabled", OK) if account.is_active else Badge("Disabled", OFF)
    if account.is_active and account.left_at:
        return Badge("Has left", WARNING)
    return Badge("Active", OK) if account.is_active else Badge("Disabled", OFF)


def action_label(action: str) -> str:
    """An audit action for people: "connection.reconnect_needed" → "Connection: reconnect needed"."""
    noun, _, verb = action.partition(".")
    return f"{_sentence_case(noun.replace('_', ' '))}: {verb.replace('_', ' ')}" if verb else noun


def type_label(target_type: str) -> str:
    """A glossary name for people: "AppRegistration" → "App registration"."""
    return _sentence_case(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", target_type))


def _sentence_case(words: str) -> str:
    return re.sub(r"^Api\b", "API", words.capitalize())
