"""How states are shown: a word and a tone. For connections, also the cause and who must act."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Model
from django.utils import timezone

from connections import addressing, effective_status, models
from connections.access import permissions
from connections.effective_status import EffectiveStatus
from connections.errors import ApprovalNeeded
from connections.microsoft.error_types import Who

Status = models.Connection.Status
OK, WAITING, WARNING, BROKEN, OFF = "ok", "waiting", "warning", "broken", "off"

# Who must act, for the text after "Assigned to:".
IT_ADMINS, YOU, OWNER_SUFFIX = "IT admins", "you", " (owner)"

# Who can fix a pasted error. The portal does not know who the reader is.
ERROR_ASSIGNEES = {
    Who.OWNER: "The person who signs in",
    Who.IT_ADMIN: IT_ADMINS,
    Who.MICROSOFT: "Microsoft",
    Who.NOBODY: "",
}

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
    """A connection's state, with its cause, what to do and who must do it. Each of these may be empty."""

    badge: Badge
    cause: str = ""
    action: str = ""
    who: str = ""
    since: datetime | None = None

    @property
    def is_broken(self) -> bool:
        return self.badge.tone in (WARNING, BROKEN)


_STATUS_TONES = {
    EffectiveStatus.ACTIVE: OK,
    EffectiveStatus.APP_REJECTED: BROKEN,
    EffectiveStatus.RECONNECT_NEEDED: BROKEN,
    EffectiveStatus.ACCOUNT_GONE: BROKEN,
    EffectiveStatus.CONSENT_NEEDED: WARNING,
    EffectiveStatus.BLOCKED: BROKEN,
    EffectiveStatus.AWAITING_CONSENT: WAITING,
    EffectiveStatus.AWAITING_APPROVAL: WAITING,
    EffectiveStatus.APPROVAL_REQUIRED: WAITING,
    EffectiveStatus.PENDING: WAITING,
    EffectiveStatus.DISABLED: OFF,
}
# The tone for each value of the column, for models whose badge shows a single column.
_TONES: dict[type[Model], dict[str, str]] = {
    models.MailboxAccess: {"unprobed": WAITING, "reachable": OK, "unreachable": BROKEN, "unknown": WARNING},
    models.ConsentLink: {
        "open": WAITING,
        "granted": WARNING,
        "partial": WARNING,
        "verified": OK,
        "declined": BROKEN,
        "failed": BROKEN,
    },
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
    models.ChangeRequest: {"waiting": WAITING, "approved": WAITING, "declined": BROKEN, "withdrawn": OFF, "used": OK},
    models.ReviewItem: {"open": WAITING, "confirmed": OK, "removed": OFF, "expired": OFF, "gone": OFF},
    models.AuditVerification: {"waiting": WAITING, "running": WAITING, "intact": OK, "broken": BROKEN},
    models.BulkAction: {"draft": WAITING, "running": WAITING, "done": OK, "stopped": OFF},
    models.BulkItem: {"waiting": WAITING, "done": OK, "skipped": WARNING},
    models.AuditEvent: {"done": OK, "denied": WARNING, "failed": BROKEN},
}
# The name of that column, if it is not "state".
_COLUMNS: dict[type[Model], str] = {models.ReviewItem: "decision", models.AuditEvent: "outcome"}

# The causes and actions for connections that store none themselves.
_CAUSES = {
    Status.PENDING: "The sign-in isn't complete.",
    Status.RECONNECT_NEEDED: "Microsoft no longer accepts the sign-in.",
    Status.CONSENT_NEEDED: "The app registration doesn't have admin consent for the required permissions.",
    Status.BLOCKED: "A policy of the organisation blocks this connection.",
    Status.DISABLED: "The connection is disabled in this portal.",
}
_STARTED_CAUSE = "The sign-in to Microsoft was started but not completed."
# Cause and action for connections that don't work until an open request is decided.
_AWAITING = {
    EffectiveStatus.AWAITING_CONSENT: (
        "Admin consent has been requested.",
        "An IT admin needs to review the consent request.",
    ),
    EffectiveStatus.AWAITING_APPROVAL: (
        "Approval has been requested.",
        "An IT admin needs to review the approval request.",
    ),
}
_GONE_CAUSE = "Microsoft says that the account is disabled or deleted."
_GONE_ACTION = (
    "An administrator needs to restore the account in Microsoft Entra. Then sign in again, or remove the connection."
)
_APP_ONLY_CAUSES = {
    Status.PENDING: "The portal hasn't received a token for this app-only connection yet.",
    Status.RECONNECT_NEEDED: "Microsoft no longer gives the application access.",
}
_ACTIONS = {
    Status.PENDING: "Sign in to Microsoft to finish setup, or remove the connection.",
    Status.RECONNECT_NEEDED: "You need to sign in again with the same account.",
    Status.CONSENT_NEEDED: "Grant admin consent for the app registration, then sign in again.",
    Status.BLOCKED: "Change the policy, then test the connection again.",
}
# The actions as shown to everybody except the owner.
_ACTIONS_OF_OWNER = {
    Status.PENDING: "The owner needs to sign in to Microsoft to finish setup.",
    Status.RECONNECT_NEEDED: "The owner needs to sign in again with the same account.",
}
# App-only connections have no sign-in.
_APP_ONLY_LABELS = {
    EffectiveStatus.PENDING: "Not connected yet",
    EffectiveStatus.RECONNECT_NEEDED: "Access rejected",
}
_APP_ONLY_ACTIONS = {
    Status.PENDING: "Test the connection, or remove it.",
    Status.RECONNECT_NEEDED: "Test the app registration's credentials.",
    Status.CONSENT_NEEDED: "Grant admin consent for the app registration.",
}
_WHO = {
    Status.PENDING: models.Connection.Who.OWNER,
    Status.RECONNECT_NEEDED: models.Connection.Who.OWNER,
    Status.CONSENT_NEEDED: models.Connection.Who.IT_ADMIN,
    Status.BLOCKED: models.Connection.Who.IT_ADMIN,
}


def badge(row: Model) -> Badge:
    """Return the badge of an object with a state. Raises TypeError for models without one."""
    if tones := _TONES.get(type(row)):
        column = _COLUMNS.get(type(row), "state")
        return Badge(getattr(row, f"get_{column}_display")(), tones[getattr(row, column)])
    match row:
        case models.Connection():
            return connection_badge(row)
        case models.AppRegistration():
            if row.rejected_at:
                return Badge("Rejected by Microsoft", BROKEN)
            return Badge("Ready", OK) if row.verified_at else Badge("Not tested yet", WAITING)
        case models.AppConsent():
            if row.rejected_at:
                return Badge("Rejected by Microsoft", BROKEN)
            return Badge("In use", OK) if row.seen_at else Badge("Awaiting consent", WAITING)
        case models.AppCredential():
            return _credential_badge(row)
        case models.AccessReview():
            if row.cancelled_at:
                return Badge("Cancelled", OFF)
            return Badge("Closed", OK) if row.closed_at else Badge("Running", WAITING)
        case models.Incident():
            return Badge("Open", BROKEN) if row.is_open else Badge("Resolved", OK)
        case models.AlertChannel():
            return Badge("Disabled", OFF) if row.disabled_at else Badge("Enabled", OK)
        case models.ApiKey():
            if row.revoked_at:
                return Badge("Revoked", OFF)
            return Badge("Active", OK) if row.is_valid() else Badge("Expired", OFF)
        case models.User():
            if not row.is_active:
                return Badge("Disabled", OFF)
            if row.is_service:
                return Badge("Enabled", OK)
            return Badge("Has left", WARNING) if row.left_at else Badge("Active", OK)
    raise TypeError(f"{type(row).__name__} has no state to show.")


def _credential_badge(credential: models.AppCredential) -> Badge:
    if credential.retired_at:
        return Badge("Retired", OFF)
    if credential.has_expired():
        return Badge("Expired", BROKEN)
    if credential.rejected_at:
        return Badge("Rejected by Microsoft", BROKEN)
    if credential.expires_at and (credential.expires_at - timezone.now()).days < 30:
        return Badge("Expires soon", WARNING)
    return Badge("Accepted", OK) if credential.verified_at else Badge("Not tested yet", WAITING)


def connection_badge(connection: models.Connection) -> Badge:
    state = effective_status.of(connection)
    if not connection.is_delegated and state in _APP_ONLY_LABELS:
        return Badge(_APP_ONLY_LABELS[state], _STATUS_TONES[state])
    return status_badge(state)


def status_badge(status: EffectiveStatus) -> Badge:
    return Badge(status.label, _STATUS_TONES[status])


def connection_state(
    connection: models.Connection, viewer: models.User | None = None, *, action: str = "", who: str = ""
) -> State:
    """Return a connection's state for ``viewer``, who is addressed as "you" if they must act.

    ``action`` and ``who`` (a value of Connection.Who) replace the usual next step if the policy does not allow that
    step.
    """
    badge, state = connection_badge(connection), effective_status.of(connection)
    if state == EffectiveStatus.APP_REJECTED:
        return _app_rejected(connection, badge)
    if state == EffectiveStatus.ACTIVE:
        return State(badge=badge)
    cause = connection.status_cause or _default_cause(connection)
    action = action or _stored_action(connection, viewer) or _default_action(connection, viewer)
    if state in _AWAITING:
        cause, action = _awaiting(connection, viewer)
    return State(badge, cause, action, assigned_to(connection, viewer, who=who), connection.status_since)


def _app_rejected(connection: models.Connection, badge: Badge) -> State:
    rejected = connection.app_rejection
    assert rejected is not None  # noqa: S101 - that is what the state means
    cause = f"Microsoft rejects the app registration {rejected}. {rejected.rejected_cause}".strip()
    action = rejected.rejected_action or "Fix the app registration. Its connections then work again automatically."
    return State(badge, cause, action, IT_ADMINS, rejected.rejected_at)


def _awaiting(connection: models.Connection, viewer: models.User | None) -> tuple[str, str]:
    state = effective_status.of(connection)
    cause, action = _AWAITING[state]
    if state == EffectiveStatus.AWAITING_APPROVAL and connection.status_code == ApprovalNeeded.code:
        cause = connection.status_cause or cause  # the policy's reasons
    is_admin = viewer is not None and permissions.can_manage_registry(viewer)
    return cause, addressing.speak_to(addressing.IT_ADMIN if is_admin else "", action)


def address(action: str, *, to_owner: bool) -> str:
    """Word a stored action for its reader: "You need to …" for the owner, "The owner needs to …" for everybody else."""
    action = action.replace("The owner must", "The owner needs to")  # as stored by versions before 0.3
    return addressing.speak_to(addressing.OWNER if to_owner else "", action)


def _stored_action(connection: models.Connection, viewer: models.User | None) -> str:
    if viewer is None:
        return connection.status_action
    return address(connection.status_action, to_owner=viewer.pk == connection.owner_id)


def _default_cause(connection: models.Connection) -> str:
    status = Status(connection.status)
    if effective_status.of(connection) == EffectiveStatus.ACCOUNT_GONE:
        return _GONE_CAUSE
    if not connection.is_delegated and status in _APP_ONLY_CAUSES:
        return _APP_ONLY_CAUSES[status]
    return _STARTED_CAUSE if status == Status.PENDING and connection.sign_in_started_at else _CAUSES[status]


def _default_action(connection: models.Connection, viewer: models.User | None) -> str:
    status = Status(connection.status)
    if effective_status.of(connection) == EffectiveStatus.ACCOUNT_GONE:
        return _GONE_ACTION
    if not connection.is_delegated and status in _APP_ONLY_ACTIONS:
        return _APP_ONLY_ACTIONS[status]
    if viewer is not None and viewer.pk != connection.owner_id and status in _ACTIONS_OF_OWNER:
        return _ACTIONS_OF_OWNER[status]
    return _ACTIONS.get(status, "")


def assigned_to(connection: models.Connection, viewer: models.User | None = None, *, who: str = "") -> str:
    """Return who must act: a name, a role, "you" for the viewer, or "" if nobody needs to."""
    who = assignee(connection, who=who)
    if who == models.Connection.Who.OWNER:
        return YOU if viewer is not None and viewer.pk == connection.owner_id else f"{connection.owner}{OWNER_SUFFIX}"
    return {
        models.Connection.Who.IT_ADMIN.value: IT_ADMINS,
        models.Connection.Who.MICROSOFT.value: "Microsoft",
    }.get(who, "")


def assignee(connection: models.Connection, *, who: str = "") -> str:
    """Return who must act, as a value of Connection.Who, or "" if nobody needs to.

    ``who`` is the caller's choice instead of the stored or usual one. It is ignored if the app registration is rejected
    or if an open request must be decided first.
    """
    state = effective_status.of(connection)
    if state == EffectiveStatus.ACTIVE:
        return ""
    if state == EffectiveStatus.APP_REJECTED or state in effective_status.AWAITING:
        return models.Connection.Who.IT_ADMIN
    return who or connection.status_who or _WHO.get(Status(connection.status), "")
