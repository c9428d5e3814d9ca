"""How states are shown to people: a word and a tone, and for connections also the cause and who must act."""

import re
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Model
from django.utils import timezone

from connections import models
from connections.errors import ApprovalNeeded

Status = models.Connection.Status
OK, WAITING, WARNING, BROKEN, OFF = "ok", "waiting", "warning", "broken", "off"

BLOCKED_BY_APP = "Blocked by its app registration"

# The icon beside the word, because colour alone is not accessible.
SIGNS = {
    OK: "circle-check",
    WAITING: "circle-dashed",
    WARNING: "alert-triangle",
    BROKEN: "circle-x",
    OFF: "player-pause",
}


@dataclass(frozen=True, slots=True)
class Badge:
    word: str
    tone: str

    @property
    def sign(self) -> str:
        return SIGNS[self.tone]


@dataclass(frozen=True, slots=True)
class State:
    """A connection's state: cause, what to do, and who must do it. Strings are empty where there is nothing to say."""

    badge: Badge
    cause: str = ""
    action: str = ""
    who: str = ""
    since: datetime | None = None

    @property
    def is_broken(self) -> bool:
        return self.badge.tone in (WARNING, BROKEN)


_STATUS_TONES = {
    Status.PENDING: WAITING,
    Status.ACTIVE: OK,
    Status.RECONNECT_NEEDED: BROKEN,
    Status.CONSENT_NEEDED: WARNING,
    Status.BLOCKED: BROKEN,
    Status.DISABLED: OFF,
}
# For models whose badge shows the value of one column: the tone of each value.
_TONES: dict[type[Model], dict[str, str]] = {
    models.MailboxAccess: {"unprobed": WAITING, "reachable": OK, "unreachable": BROKEN, "unknown": WARNING},
    models.ConsentLink: {"open": WAITING, "granted": WARNING, "verified": OK, "declined": BROKEN, "failed": BROKEN},
    models.ConsentRequest: {
        "asked": WAITING,
        "approved": WAITING,
        "granted": WARNING,
        "verified": OK,
        "declined": BROKEN,
        "failed": BROKEN,
        "withdrawn": OFF,
    },
    models.Approval: {"waiting": WAITING, "approved": OK, "declined": BROKEN, "withdrawn": OFF},
    models.ReviewItem: {"open": WAITING, "confirmed": OK, "removed": OFF, "expired": OFF, "gone": OFF},
    models.AuditVerification: {"waiting": WAITING, "running": WAITING, "intact": OK, "broken": BROKEN},
    models.AuditEvent: {"done": OK, "denied": WARNING, "failed": BROKEN},
}
# The column, where it is not "state".
_COLUMNS: dict[type[Model], str] = {models.ReviewItem: "decision", models.AuditEvent: "outcome"}

# Used if the connection has no sentences of its own.
_CAUSES = {
    Status.PENDING: "Nobody has signed in for it yet.",
    Status.RECONNECT_NEEDED: "Microsoft no longer accepts the sign-in this connection stands on.",
    Status.CONSENT_NEEDED: "Nobody has yet granted this app registration the permissions it needs.",
    Status.BLOCKED: "A policy of the organisation stops this connection.",
    Status.DISABLED: "It was switched off in this portal.",
}
_STARTED_CAUSE = "The sign-in at Microsoft was started but has not come back."
_ACTIONS = {
    Status.PENDING: "Sign in at Microsoft to finish it, or remove the connection.",
    Status.RECONNECT_NEEDED: "Sign in again with the same account.",
    Status.CONSENT_NEEDED: "Grant admin consent for the app registration, then sign in again.",
    Status.BLOCKED: "Change the policy, then check the connection again.",
}
_WHO = {
    Status.PENDING: models.Connection.Who.OWNER,
    Status.RECONNECT_NEEDED: models.Connection.Who.OWNER,
    Status.CONSENT_NEEDED: models.Connection.Who.IT_ADMIN,
    Status.BLOCKED: models.Connection.Who.IT_ADMIN,
}


def badge(thing: Model) -> Badge:
    """Return the badge of anything that has a state. Raises TypeError for other models."""
    if tones := _TONES.get(type(thing)):
        column = _COLUMNS.get(type(thing), "state")
        return Badge(getattr(thing, f"get_{column}_display")(), tones[getattr(thing, column)])
    match thing:
        case models.Connection():
            return connection_badge(thing)
        case models.AppRegistration():
            if thing.rejected_at:
                return Badge("Rejected by Microsoft", BROKEN)
            return Badge("Ready", OK) if thing.verified_at else Badge("Not tried yet", WAITING)
        case models.AppCredential():
            if thing.retired_at:
                return Badge("Retired", OFF)
            if thing.has_expired():
                return Badge("Expired", BROKEN)
            if thing.rejected_at:
                return Badge("Rejected by Microsoft", BROKEN)
            if thing.expires_at and (thing.expires_at - timezone.now()).days < 30:
                return Badge("Expires soon", WARNING)
            return Badge("Accepted", OK) if thing.verified_at else Badge("Not tried yet", WAITING)
        case models.AccessReview():
            if thing.cancelled_at:
                return Badge("Cancelled", OFF)
            return Badge("Closed", OK) if thing.closed_at else Badge("Running", WAITING)
        case models.Incident():
            return Badge("Open", BROKEN) if thing.is_open else Badge("Healed", OK)
        case models.AlertChannel():
            return Badge("Switched off", OFF) if thing.disabled_at else Badge("On", OK)
        case models.ApiKey():
            if thing.revoked_at:
                return Badge("Revoked", OFF)
            return Badge("Valid", OK) if thing.is_valid() else Badge("Expired", OFF)
        case models.User():
            if not thing.is_active:
                return Badge("Disabled", OFF)
            if thing.is_service:
                return Badge("Enabled", OK)
            return Badge("Has left", WARNING) if thing.left_at else Badge("Active", OK)
    raise TypeError(f"{type(thing).__name__} has no state to show.")


def connection_badge(connection: models.Connection) -> Badge:
    """Return a connection's badge. Unlike status_badge, it also shows "blocked by its app" and "not approved yet"."""
    if connection.is_blocked_by_app:
        return Badge(BLOCKED_BY_APP, BROKEN)
    if connection.status == Status.PENDING and connection.status_code == ApprovalNeeded.code:
        return Badge("Needs approval first", WAITING)
    return status_badge(Status(connection.status))


def status_badge(status: Status) -> Badge:
    return Badge(status.label, _STATUS_TONES[status])


def connection_state(connection: models.Connection, viewer: models.User | None = None) -> State:
    """Return a connection's state for ``viewer``, who reads "you" where they must act themselves."""
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
    status = Status(connection.status)
    if status == Status.ACTIVE:
        return State(badge=connection_badge(connection))
    default = _STARTED_CAUSE if status == Status.PENDING and connection.sign_in_started_at else _CAUSES[status]
    return State(
        badge=connection_badge(connection),
        cause=connection.status_cause or default,
        action=connection.status_action or _ACTIONS.get(status, ""),
        who=assigned_to(connection, viewer),
        since=connection.status_since,
    )


def assigned_to(connection: models.Connection, viewer: models.User | None = None) -> str:
    """Return who must act, as part of a sentence ("the owner, Bob Jones"), or "" if nobody must."""
    if connection.is_blocked_by_app:
        return "an IT admin"
    who = connection.status_who or _WHO.get(Status(connection.status), "")
    if who == models.Connection.Who.OWNER:
        return "you" if viewer is not None and viewer.pk == connection.owner_id else f"the owner, {connection.owner}"
    return {
        models.Connection.Who.IT_ADMIN.value: "an IT admin",
        models.Connection.Who.MICROSOFT.value: "Microsoft",
    }.get(who, "")


def action_label(action: str) -> str:
    """Format an audit action for people: "connection.reconnect_needed" → "Connection: reconnect needed"."""
    noun, _, verb = action.partition(".")
    return f"{_sentence_case(noun.replace('_', ' '))}: {verb.replace('_', ' ')}" if verb else noun


def type_label(target_type: str) -> str:
    """Format a glossary name for people: "AppRegistration" → "App registration"."""
    return _sentence_case(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", target_type))


def _sentence_case(words: str) -> str:
    return re.sub(r"^Api\b", "API", words.capitalize())
