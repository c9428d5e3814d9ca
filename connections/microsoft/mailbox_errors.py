"""The reasons why a connection cannot use a shared mailbox, and how to infer them from Graph's errors.

Graph responds with 403 or 404 (Microsoft: outlook-share-messages-folders), so the code alone says little. The granted
permissions, the kind of token and the directory's entry for the address are also needed.
"""

from dataclasses import dataclass
from enum import StrEnum

from connections.microsoft import capabilities, data_files
from connections.microsoft.capabilities import CAPABILITIES
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind, Who


class ReachState(StrEnum):
    """Whether the mailbox could be used. The values are those of MailboxAccess.State."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


class MissingAccess(StrEnum):
    """The exact reason. The values are stored in MailboxAccess.lack; their texts are in data/mailbox_access.toml."""

    SHARED_SCOPE = "shared_scope"
    APP_ROLE = "app_role"
    FULL_ACCESS = "full_access"
    FOLDER_ONLY = "folder_only"
    CALENDAR = "calendar"
    POLICY_SCOPE = "policy_scope"
    GUEST = "guest"  # the connected account is a guest
    GUEST_MAILBOX = "guest_mailbox"  # the address belongs to a guest
    NO_MAILBOX = "no_mailbox"
    NO_LICENCE = "no_licence"
    NOT_FOUND = "not_found"
    SEND_AS = "send_as"


# The address has no mailbox, so nobody can be given access to it.
WITHOUT_MAILBOX = (
    MissingAccess.NOT_FOUND,
    MissingAccess.GUEST_MAILBOX,
    MissingAccess.NO_MAILBOX,
    MissingAccess.NO_LICENCE,
)


@dataclass(frozen=True, slots=True)
class Probe:
    """The result for one mailbox. ``code`` is Microsoft's. The sentences are the portal's own, and empty on success."""

    state: ReachState
    code: str = ""
    cause: str = ""
    action: str = ""
    who: Who = Who.NOBODY
    lack: MissingAccess | None = None


REACHABLE = Probe(ReachState.REACHABLE)
NOT_TESTED = "not-tested"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a connection does in a mailbox. If only the first of ``paths`` succeeds, only a folder is shared."""

    paths: tuple[str, ...]
    scope: str  # the delegated permission that a connection needs for this
    role: str  # the application permission that a connection needs for this
    capability: str  # the capability that the owner must add to get the scope


def _labels(*keys: str) -> str:
    return " or ".join(f"“{CAPABILITIES[key].label}”" for key in keys)


MAIL = Purpose(
    ("mailFolders/inbox?$select=id", "messages?$top=1&$select=id"),
    "Mail.Read.Shared",
    "Mail.Read",
    _labels("shared_mailbox.read", "shared_mailbox.trigger"),
)
CALENDAR = Purpose(
    ("calendar/events?$top=1&$select=id",),
    "Calendars.Read.Shared",
    "Calendars.Read",
    _labels("calendar.shared", "calendar.shared_trigger"),
)
SEND = Purpose((), "Mail.Send.Shared", "Mail.Send", _labels("shared_mailbox.send"))


def purpose_of(permissions: tuple[str, ...], *, delegated: bool) -> Purpose:
    """Return the purpose to test for a connection with these scopes or roles.

    This is reading mail, unless the permissions only allow calendars or sending.
    """
    for purpose in (MAIL, CALENDAR, SEND):
        if not capabilities.missing([purpose.scope if delegated else purpose.role], permissions):
            return purpose
    return MAIL


@dataclass(frozen=True, slots=True)
class Entry:
    """The texts for one MissingAccess. They may contain {address}, {permission} and {capability}."""

    cause: str
    action: str
    who: Who


ENTRIES = {
    MissingAccess(value): entry
    for value, entry in data_files.load("mailbox_access.toml").rows("missing_access", Entry).items()
}


def missing_access(
    lack: MissingAccess, code: str, address: str, purpose: Purpose = MAIL, *, delegated: bool = True
) -> Probe:
    """Return the result for a mailbox that cannot be used for the reason ``lack``."""
    entry = ENTRIES[lack]
    permission = purpose.scope if delegated else purpose.role
    values = {"address": address, "permission": permission, "capability": purpose.capability}
    cause, action = entry.cause.format(**values), entry.action.format(**values)
    return Probe(ReachState.UNREACHABLE, code, cause, action, entry.who, lack)


def who_can_fix(lack: str) -> Who:
    """Return who can fix a stored ``lack``. For an unknown value, that is an IT admin."""
    try:
        return ENTRIES[MissingAccess(lack)].who
    except ValueError:
        return Who.IT_ADMIN


def untested(address: str) -> Probe:
    """Return the result for a connection that only sends. Microsoft documents no way to test that without sending."""
    return Probe(
        ReachState.UNKNOWN,
        NOT_TESTED,
        f"This connection only sends, so access to {address} can't be checked without sending.",
        "Send a test message.",
        Who.OWNER,
    )


# Errors that say nothing about the mailbox: expired token, Microsoft busy or down, or a response not from Graph.
_SAYS_NOTHING = frozenset({Kind.REAUTH, Kind.TRANSIENT, Kind.THROTTLED})
# These codes only mean "refused", for any reason. Graph responds with 404 as well as 403.
_REFUSED = frozenset({"ErrorAccessDenied", "ErrorItemNotFound", "ErrorFolderNotFound", "accessDenied", "http-403"})
_NO_PERMISSION = frozenset({"NoPermissionsInAccessToken", "Authorization_RequestDenied"})
_NOT_FOUND = frozenset({"ErrorInvalidUser", "Request_ResourceNotFound", "ErrorNonExistentMailbox"})
_NO_MAILBOX = frozenset(
    {"MailboxNotEnabledForRESTAPI", "MailboxNotHostedInExchangeOnline", "ResourceNotFound", "ErrorMissingEmailAddress"}
)


@dataclass(frozen=True, slots=True)
class Account:
    """The directory's entry for an address. ``exists`` is False if no account has this address."""

    exists: bool
    guest: bool = False
    licensed: bool = False


@dataclass(frozen=True, slots=True)
class ProbeJudgement:
    """Infers why a mailbox cannot be used.

    ``reaches_others`` says that the app is known to reach another mailbox without having the role.
    """

    purpose: Purpose
    delegated: bool
    granted: frozenset[str]
    guest: bool = False
    reaches_others: bool = False

    @property
    def has_permission(self) -> bool:
        needed = self.purpose.scope if self.delegated else self.purpose.role
        return not capabilities.missing([needed], self.granted)

    def is_doubtful(self, verdict: Verdict) -> bool:
        """Whether looking up the address in the directory would help to explain the refusal."""
        if verdict.kind in _SAYS_NOTHING or (self.delegated and self.guest):
            return False
        return verdict.code in _NO_MAILBOX or (verdict.code in _REFUSED and self.has_permission)

    def refused(self, address: str, verdict: Verdict, account: Account | None = None) -> Probe:
        """Return the result for a mailbox in which nothing could be read."""
        unknown = verdict.kind in _SAYS_NOTHING
        lack = None if unknown else self._lack(verdict, account)
        if lack is not None:
            return self._missing(lack, verdict, address)
        state = ReachState.UNKNOWN if unknown else ReachState.UNREACHABLE
        return Probe(state, verdict.code, verdict.cause, verdict.action, verdict.who)

    def half_open(self, address: str, verdict: Verdict) -> Probe:
        """Return the result for a mailbox of which only the inbox could be read."""
        if not self.delegated or verdict.kind in _SAYS_NOTHING or verdict.code not in _REFUSED:
            return self.refused(address, verdict)
        return self._missing(MissingAccess.FOLDER_ONLY, verdict, address)

    def not_sent(self, address: str, verdict: Verdict) -> Probe:
        """Return the result for a mailbox from which a message could not be sent."""
        if verdict.code == "ErrorSendAsDenied" or (self.delegated and self.has_permission and verdict.code in _REFUSED):
            return self._missing(MissingAccess.SEND_AS, verdict, address)
        return self.refused(address, verdict)

    def _lack(self, verdict: Verdict, account: Account | None) -> MissingAccess | None:
        code = verdict.code
        if code in _NOT_FOUND:
            return MissingAccess.NOT_FOUND
        if code in _NO_MAILBOX:
            # If the guest itself has no mailbox, the response is the same (microsoft-graph-docs-contrib#405).
            if self.delegated and self.guest:
                return MissingAccess.GUEST
            if account is not None and account.exists and not account.guest and not account.licensed:
                return MissingAccess.NO_LICENCE
            return _by_account(account) or MissingAccess.NO_MAILBOX
        if code not in _REFUSED | _NO_PERMISSION or verdict.kind is Kind.POLICY:
            return None
        if self.delegated:
            if self.guest:
                return MissingAccess.GUEST
            if not self.has_permission:
                return MissingAccess.SHARED_SCOPE
            no_access = MissingAccess.CALENDAR if self.purpose is CALENDAR else MissingAccess.FULL_ACCESS
            return _by_account(account) or no_access
        if verdict.kind is Kind.MAILBOX and code == "ErrorAccessDenied":
            return MissingAccess.POLICY_SCOPE  # this error explicitly means an application access policy
        if not self.has_permission:
            return MissingAccess.POLICY_SCOPE if self.reaches_others else MissingAccess.APP_ROLE
        return _by_account(account) or MissingAccess.POLICY_SCOPE

    def _missing(self, lack: MissingAccess, verdict: Verdict, address: str) -> Probe:
        return missing_access(lack, verdict.code, address, self.purpose, delegated=self.delegated)


def _by_account(account: Account | None) -> MissingAccess | None:
    if account is None:
        return None
    if not account.exists:
        return MissingAccess.NOT_FOUND
    return MissingAccess.GUEST_MAILBOX if account.guest else None
