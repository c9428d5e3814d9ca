"""How states are shown to people: a word, a tone, and for connections the cause and who must act."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Model
from django.utils import timezone

from connections import models
from connections.errors import ApprovalNeeded

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
    models.Connection.Status.PENDING: WAITING,
    models.Connection.Status.ACTIVE: OK,
    models.Connection.Status.RECONNECT_NEEDED: BROKEN,
    models.Connection.Status.CONSENT_NEEDED: WARNING,
    models.Connection.Status.BLOCKED: BROKEN,
    models.Connection.Status.DISABLED: OFF,
}
# For models whose badge is just one of their columns: the tone of each of its values.
_TONES: dict[type[Model], dict[str, str]] = {
    models.MailboxAccess: {
        models.MailboxAccess.State.UNPROBED: WAITING,
        models.MailboxAccess.State.REACHABLE: OK,
        models.MailboxAccess.State.UNREACHABLE: BROKEN,
        models.MailboxAccess.State.UNKNOWN: WARNING,
    },
    models.ConsentLink: {
        models.ConsentLink.State.OPEN: WAITING,
        models.ConsentLink.State.GRANTED: WARNING,
        models.ConsentLink.State.VERIFIED: OK,
        models.ConsentLink.State.DECLINED: BROKEN,
        models.ConsentLink.State.FAILED: BROKEN,
    },
    models.ConsentRequest: {
        models.ConsentRequest.State.ASKED: WAITING,
        models.ConsentRequest.State.APPROVED: WAITING,
        models.ConsentRequest.State.GRANTED: WARNING,
        models.ConsentRequest.State.VERIFIED: OK,
        models.ConsentRequest.State.DECLINED: BROKEN,
        models.ConsentRequest.State.FAILED: BROKEN,
        models.ConsentRequest.State.WITHDRAWN: OFF,
    },
    models.Approval: {
        models.Approval.State.WAITING: WAITING,
        models.Approval.State.APPROVED: OK,
        models.Approval.State.DECLINED: BROKEN,
        models.Approval.State.WITHDRAWN: OFF,
    },
    models.ReviewItem: {
        models.ReviewItem.Decision.OPEN: WAITING,
        models.ReviewItem.Decision.CONFIRMED: OK,
        models.ReviewItem.Decision.REMOVED: OFF,
        models.ReviewItem.Decision.EXPIRED: OFF,
        models.ReviewItem.Decision.GONE: OFF,
    },
    models.AuditVerification: {
        models.AuditVerification.State.WAITING: WAITING,
        models.AuditVerification.State.RUNNING: WAITING,
        models.AuditVerification.State.INTACT: OK,
        models.AuditVerification.State.BROKEN: BROKEN,
    },
    models.AuditEvent: {
        models.AuditEvent.Outcome.DONE: OK,
        models.AuditEvent.Outcome.DENIED: WARNING,
        models.AuditEvent.Outcome.FAILED: BROKEN,
    },
}
_COLUMNS: dict[type[Model], str] = {models.ReviewItem: "decision", models.AuditEvent: "outcome"}  # others: "state"

# Used when the connection has no sentences of its own.
_CAUSES = {
    models.Connection.Status.PENDING: "Nobody has signed in for it yet.",
    models.Connection.Status.RECONNECT_NEEDED: "Microsoft no longer accepts the sign-in this connection stands on.",
    models.Connection.Status.CONSENT_NEEDED: "Nobody has yet granted this app registration the permissions it needs.",
    models.Connection.Status.BLOCKED: "A policy of the organisation stops this connection.",
    models.Connection.Status.DISABLED: "It was switched off in this portal.",
}
_STARTED_CAUSE = "The sign-in at Microsoft was started but has not come back."
_ACTIONS = {
    models.Connection.Status.PENDING: "Sign in at Microsoft to finish it, or remove the connection.",
    models.Connection.Status.RECONNECT_NEEDED: "Sign in again with the same account.",
    models.Connection.Status.CONSENT_NEEDED: "Grant admin consent for the app registration, then sign in again.",
    models.Connection.Status.BLOCKED: "Change the policy, then check the connection again.",
}
_WHO = {
    models.Connection.Status.PENDING: models.Connection.Who.OWNER,
    models.Connection.Status.RECONNECT_NEEDED: models.Connection.Who.OWNER,
    models.Connection.Status.CONSENT_NEEDED: models.Connection.Who.IT_ADMIN,
    models.Connection.Status.BLOCKED: models.Connection.Who.IT_ADMIN,
}


def badge(thing: Model) -> Badge:
    """The badge of anything that has a state. Raises TypeError for a model that has none."""
    if tones := _TONES.get(type(thing)):
        column = _COLUMNS.get(type(thing), "state")
        return Badge(getattr(thing, f"get_{column}_display")(), tones[getattr(thing, column)])
    match thing:
        case models.Connection():
            return connection_badge(thing)
        case models.AppRegistration():
            return _app_badge(thing)
        case models.AppCredential():
            return _credential_badge(thing)
        case models.AccessReview():
            return _review_badge(thing)
        case models.Incident():
            return Badge("Open", BROKEN) if thing.is_open else Badge("Healed", OK)
        case models.AlertChannel():
            return Badge("Switched off", OFF) if thing.disabled_at else Badge("On", OK)
        case models.ApiKey():
            return _api_key_badge(thing)
        case models.User():
            return _account_badge(thing)
    raise TypeError(f"{type(thing).__name__} has no state to show.")


def connection_badge(connection: models.Connection) -> Badge:
    """The badge of a connection; unlike status_badge it also shows "blocked by its app" and "not approved yet"."""
    if connection.is_blocked_by_app:
        return Badge(BLOCKED_BY_APP, BROKEN)
    if connection.status == models.Connection.Status.PENDING and connection.status_code == ApprovalNeeded.code:
        return Badge("Needs approval first", WAITING)
    return status_badge(models.Connection.Status(connection.status))


def status_badge(status: models.Connection.Status) -> Badge:
    return Badge(status.label, _STATUS_TONES[status])


def connection_state(connection: models.Connection, viewer: models.User | None = None) -> State:
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
    status = models.Connection.Status(connection.status)
    if status == models.Connection.Status.ACTIVE:
        return State(badge=connection_badge(connection))
    default = (
        _STARTED_CAUSE
        if status == models.Connection.Status.PENDING and connection.sign_in_started_at
        else _CAUSES[status]
    )
    return State(
        badge=connection_badge(connection),
        cause=connection.status_cause or default,
        action=connection.status_action or _ACTIONS.get(status, ""),
        who=assigned_to(connection, viewer),
        since=connection.status_since,
    )


def assigned_to(connection: models.Connection, viewer: models.User | None = None) -> str:
    """Who must act, as part of a sentence ("the owner, Bob Jones"); empty when nobody must."""
    if connection.is_blocked_by_app:
        return "an IT admin"
    who = connection.status_who or _WHO.get(models.Connection.Status(connection.status), "")
    if who == models.Connection.Who.OWNER:
        return "you" if viewer is not None and viewer.pk == connection.owner_id else f"the owner, {connection.owner}"
    return {
        models.Connection.Who.IT_ADMIN.value: "an IT admin",
        models.Connection.Who.MICROSOFT.value: "Microsoft",
    }.get(who, "")


def _app_badge(app: models.AppRegistration) -> Badge:
    if app.rejected_at:
        return Badge("Rejected by Microsoft", BROKEN)
    return Badge("Ready", OK) if app.verified_at else Badge("Not tried yet", WAITING)


def _review_badge(review: models.AccessReview) -> Badge:
    if review.cancelled_at:
        return Badge("Cancelled", OFF)
    return Badge("Closed", OK) if review.closed_at else Badge("Running", WAITING)


def _credential_badge(credential: models.AppCredential) -> Badge:
    if credential.retired_at:
        return Badge("Retired", OFF)
    if credential.has_expired():
        return Badge("Expired", BROKEN)
    if credential.rejected_at:
        return Badge("Rejected by Microsoft", BROKEN)
    if credential.expires_at and (credential.expires_at - timezone.now()).days < 30:
        return Badge("Expires soon", WARNING)
    return Badge("Accepted", OK) if credential.verified_at else Badge("Not tried yet", WAITING)


def _api_key_badge(key: models.ApiKey) -> Badge:
    if key.revoked_at:
        return Badge("Revoked", OFF)
    return Badge("Valid", OK) if key.is_valid() else Badge("Expired", OFF)


def _account_badge(account: models.User) -> Badge:
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
