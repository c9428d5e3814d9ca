"""What each error of Microsoft Graph means to people, as data, and the rule that picks one.

Sources: Microsoft: graph/errors ("use the most detailed code you understand"), graph/throttling,
graph/json-batching, graph/auth-limit-mailbox-access; identity-platform/claims-challenge; codes of
Exchange and Entra behind Graph come from real answers. The classes and sentences are ours.
"""

from connections.microsoft import oauth_errors
from connections.microsoft.error_types import ErrorMeaning, Kind, Who
from connections.microsoft.response_parser import MicrosoftResponse

WAIT = oauth_errors.WAIT
PORTAL_FAULT = "Nobody in the organisation can mend this; an IT admin should report it as a fault of the portal."
MAILBOX_ACCESS = (
    "An IT admin or the mailbox's owner must give the account access to the mailbox, and the connection needs the"
    " matching Shared permission."
)
ADDRESS = "An IT admin must check the mailbox's address, its licence, and that it is in Exchange Online."
FREE_SPACE = "The owner must free some space, or an IT admin must raise the limit."

TOKEN_REJECTED = ErrorMeaning(
    Kind.REAUTH,
    Who.OWNER,
    "Microsoft did not accept the access token; it may simply have run out.",
    "The portal fetches a new one by itself; if that fails, the owner must sign in again.",
)
CLAIMS_WANTED = ErrorMeaning(
    Kind.REAUTH,
    Who.OWNER,
    "Microsoft wants a fresh sign-in because something about the account or the organisation's rules has changed.",
    "The portal asks for a new token by itself; if that fails, the owner must sign in again.",
)
CLAIMS_FORBIDDEN = ErrorMeaning(
    Kind.POLICY,
    Who.IT_ADMIN,
    "A Conditional Access rule of the organisation guards this data.",
    "The owner can sign in again to pass the rule; otherwise an IT admin must change it or exempt this app.",
)
NO_PERMISSION = ErrorMeaning(
    Kind.PERMISSION,
    Who.IT_ADMIN,
    "The connection lacks a permission for what it tried to do.",
    "An IT admin must grant the missing permission, and the owner of a person's connection then signs in again.",
)
NO_ACCESS = ErrorMeaning(
    Kind.PERMISSION,
    Who.IT_ADMIN,
    "Microsoft does not let this connection into the mailbox.",
    MAILBOX_ACCESS,
    certain=True,
)
OUTSIDE_APP_POLICY = ErrorMeaning(
    Kind.MAILBOX,
    Who.IT_ADMIN,
    "The organisation does not let this app into this mailbox.",
    "An Exchange administrator must add the mailbox to those the app may reach.",
    certain=True,
)
NOT_FOUND = ErrorMeaning(
    Kind.MAILBOX, Who.IT_ADMIN, "The mailbox or what it should hold was not found, or may not be seen.", MAILBOX_ACCESS
)
BAD_REQUEST = ErrorMeaning(
    Kind.APP_CONFIG, Who.IT_ADMIN, "Microsoft Graph did not understand the request.", PORTAL_FAULT
)
CONFLICT = ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "Something else was changed or locked at the same moment.", WAIT)
STORAGE_FULL = ErrorMeaning(Kind.TRANSIENT, Who.OWNER, "The storage at Microsoft is full.", FREE_SPACE)
LICENCE = ErrorMeaning(
    Kind.POLICY, Who.IT_ADMIN, "The organisation has no licence for this service.", "An IT admin must buy or assign it."
)

STATUSES = {
    401: TOKEN_REJECTED,
    402: LICENCE,
    403: NO_PERMISSION,
    404: NOT_FOUND,
    407: oauth_errors.TRANSPORT["proxy"],
    408: oauth_errors.TRANSPORT["timeout"],
    409: CONFLICT,
    410: CONFLICT,
    412: CONFLICT,
    423: CONFLICT,
    424: ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "An earlier request of the same batch failed.", WAIT),
    425: CONFLICT,
    429: oauth_errors.THROTTLED,
    507: STORAGE_FULL,
    509: oauth_errors.THROTTLED,
}


def _mailbox(cause: str, action: str = ADDRESS, who: Who = Who.IT_ADMIN, *, certain: bool = True) -> ErrorMeaning:
    return ErrorMeaning(Kind.MAILBOX, who, cause, action, certain=certain)


def _permission(cause: str) -> ErrorMeaning:
    return ErrorMeaning(Kind.PERMISSION, NO_PERMISSION.who, cause, NO_PERMISSION.action, certain=True)


def _passing(cause: str) -> ErrorMeaning:
    return ErrorMeaning(Kind.TRANSIENT, Who.MICROSOFT, cause, WAIT)


def _busy(cause: str, action: str = WAIT, who: Who = Who.NOBODY) -> ErrorMeaning:
    return ErrorMeaning(Kind.THROTTLED, who, cause, action)


def _request(cause: str) -> ErrorMeaning:
    return ErrorMeaning(Kind.APP_CONFIG, Who.IT_ADMIN, cause, PORTAL_FAULT)


CODES = {
    # the token
    "InvalidAuthenticationToken": TOKEN_REJECTED,
    "Authentication_ExpiredToken": TOKEN_REJECTED,
    "unauthenticated": TOKEN_REJECTED,
    "NoPermissionsInAccessToken": _permission("The access token holds no permission at all."),
    # permissions
    "ErrorAccessDenied": NO_ACCESS,
    "Authorization_RequestDenied": _permission("The connection lacks a permission for what it tried to do."),
    "Authentication_MSGraphPermissionMissing": _permission("The connection lacks a permission in Microsoft Graph."),
    "Authentication_RequestFromUnsupportedUserRole": _permission("The account lacks a role in Entra."),
    "ErrorImpersonateUserDenied": _permission("The app may not act for this account."),
    "accessDenied": _permission("The connection may not do what it tried to do."),
    "accessRestricted": _permission("Only its owner may reach this."),
    "Forbidden": _permission("The connection may not do what it tried to do."),
    "notAllowed": _permission("The organisation's settings do not allow this."),
    "Authorization_IdentityNotFound": ErrorMeaning(
        Kind.CONSENT,
        Who.IT_ADMIN,
        "The app is not, or not yet, known in this tenant.",
        "An IT admin must grant consent in this tenant; right after that it can take some minutes.",
        app_wide=True,
    ),
    "Authorization_IdentityDisabled": ErrorMeaning(
        Kind.POLICY,
        Who.IT_ADMIN,
        "The account or the app is disabled in this tenant.",
        "An IT admin must enable it again.",
    ),
    "Authentication_RequestFromNonPremiumTenantOrB2CTenant": LICENCE,
    # mailboxes
    "MailboxNotEnabledForRESTAPI": _mailbox("The account has no usable mailbox in Exchange Online."),
    "MailboxNotHostedInExchangeOnline": _mailbox("The mailbox is not in Exchange Online."),
    "ResourceNotFound": _mailbox("There is no mailbox for this address.", certain=False),
    "Request_ResourceNotFound": _mailbox("There is no such account in the tenant."),
    "Directory_ObjectNotFound": _mailbox("There is no such account in the tenant."),
    "ErrorInvalidUser": _mailbox("The address is not one of this tenant."),
    "ErrorNonExistentMailbox": _mailbox("There is no mailbox with this address."),
    "ErrorMissingEmailAddress": _mailbox("The account has no mailbox."),
    "extensionError": _mailbox("The mailbox is not in Exchange Online, or the app may not reach it.", certain=False),
    "ErrorItemNotFound": _mailbox(
        "The mailbox's folder does not exist, or the connection may not see it.", MAILBOX_ACCESS
    ),
    "ErrorFolderNotFound": _mailbox(
        "The mailbox's folder does not exist, or the connection may not see it.", MAILBOX_ACCESS
    ),
    "itemNotFound": NOT_FOUND,
    "ErrorSendAsDenied": _mailbox(
        "The account may not send in the name of this mailbox.",
        "An IT admin must give the account the right Send As or Send on Behalf.",
    ),
    "ErrorQuotaExceeded": _mailbox("The mailbox is full.", FREE_SPACE, Who.OWNER),
    "ErrorMessageSubmissionBlocked": _mailbox(
        "Microsoft has stopped this mailbox from sending.",
        "The owner must sign in to the mailbox and follow what it says.",
        Who.OWNER,
    ),
    "ErrorAccountSuspend": _mailbox(
        "Microsoft has suspended this mailbox.",
        "The owner must sign in to the mailbox and follow what it says.",
        Who.OWNER,
    ),
    # too much at once
    "TooManyRequests": oauth_errors.THROTTLED,
    "ApplicationThrottled": _busy("Too many requests to one mailbox at the same time."),
    "activityLimitReached": oauth_errors.THROTTLED,
    "throttledRequest": oauth_errors.THROTTLED,
    "Request_ThrottledTemporarily": oauth_errors.THROTTLED,
    "ErrorServerBusy": _busy("Exchange Online is busy."),
    "ErrorExceededConnectionCount": _busy("Too many connections at the same time."),
    "ErrorExceededFindCountLimit": _busy("Too many searches at the same time."),
    "ErrorExceededMessageLimit": _busy(
        "The mailbox has reached the number of messages it may send in a day.",
        "The owner must wait a day, or look in the mailbox for a notice of Microsoft.",
        Who.OWNER,
    ),
    # passing troubles
    "generalException": _passing("Microsoft Graph had a problem."),
    "serviceNotAvailable": _passing("Microsoft Graph is not available for the moment."),
    "serviceReadOnly": _passing("The data can only be read for the moment."),
    "resourceBeingProvisioned": _passing("Microsoft is still setting this up."),
    "cannotSnapshotTree": _passing("Microsoft Graph had a passing problem."),
    "ErrorInternalServerError": _passing("Exchange Online had a problem."),
    "ErrorInternalServerTransientError": _passing("Exchange Online had a passing problem."),
    "ErrorMailboxStoreUnavailable": _passing("The mailbox is not available for the moment."),
    "ErrorMailboxMoveInProgress": _passing("The mailbox is being moved."),
    "ErrorTimeoutExpired": _passing("Exchange Online took too long."),
    "ErrorConnectionFailed": _passing("Exchange Online could not be reached inside Microsoft."),
    "ErrorApiQuarantined": _passing("Microsoft holds requests to this mailbox back for a while."),
    "resourceModified": CONFLICT,
    "resyncRequired": _passing("Microsoft asks to read everything once more from the start."),
    "syncStateNotFound": _passing("Microsoft asks to read everything once more from the start."),
    "ErrorIrresolvableConflict": CONFLICT,
    "quotaLimitReached": STORAGE_FULL,
    "Directory_QuotaExceeded": ErrorMeaning(
        Kind.POLICY, Who.IT_ADMIN, "The tenant's directory is full.", "An IT admin must remove something from it."
    ),
    # the request
    "BadRequest": BAD_REQUEST,
    "Request_BadRequest": BAD_REQUEST,
    "Request_UnsupportedQuery": BAD_REQUEST,
    "invalidRequest": BAD_REQUEST,
    "notSupported": _request("Microsoft Graph does not support this request."),
    "ErrorInvalidRequest": BAD_REQUEST,
    "ErrorInvalidIdMalformed": _request("The id of a message or folder is malformed."),
    "ErrorInvalidRecipients": _request("A recipient's address is malformed."),
    "ErrorMessageSizeExceeded": _request("The message is too large."),
}

_FOLDED = {code.lower(): entry for code, entry in CODES.items()}


def decide(answer: MicrosoftResponse) -> tuple[ErrorMeaning, str]:
    """The class of an answer of Graph, and the code to show."""
    entry, code = _known(answer)
    status = answer.status
    if status in (429, 509) or (entry and entry.kind is Kind.THROTTLED) or "throttl" in code.lower():
        return (entry if entry and entry.kind is Kind.THROTTLED else oauth_errors.THROTTLED), code
    if status is not None and status >= 500:
        passing = entry if entry and entry.kind is Kind.TRANSIENT else None
        return passing or STATUSES.get(status, oauth_errors.OUTAGE), code
    if answer.challenge == "insufficient_claims" or answer.claims:
        return (CLAIMS_FORBIDDEN if status == 403 else CLAIMS_WANTED), code
    if answer.diagnostics == EXCHANGE_WITHOUT_ROLES:
        return CODES["NoPermissionsInAccessToken"], code
    if entry is NO_ACCESS and answer.description.startswith(APP_POLICY_TEXT):
        return OUTSIDE_APP_POLICY, code
    return entry or _by_status(answer), code


# Exchange's x-ms-diagnostics number for a token without any role.
EXCHANGE_WITHOUT_ROLES = "2000008"
# Graph has no other sign for a mailbox outside an application access policy
# (Microsoft: graph/auth-limit-mailbox-access, "Handling API errors").
APP_POLICY_TEXT = "Access to OData is disabled"


def _known(answer: MicrosoftResponse) -> tuple[ErrorMeaning | None, str]:
    """The innermost known code: "use the most detailed one that they understand" (graph/errors)."""
    for code in reversed(answer.graph_codes):
        if entry := _FOLDED.get(code.lower()):
            return entry, code
    if answer.graph_codes:
        return None, answer.graph_codes[0]
    return None, f"http-{answer.status}" if answer.status is not None else "unknown"


def _by_status(answer: MicrosoftResponse) -> ErrorMeaning:
    status = answer.status
    if status is None:
        return oauth_errors.NO_ANSWER if answer.shape == "empty" else oauth_errors.UNKNOWN
    if status < 400:  # a redirect, or a success with an error or a web page in it
        return oauth_errors.NOT_MICROSOFT if answer.shape == "markup" else oauth_errors.UNKNOWN
    if answer.shape in ("markup", "text") or (answer.shape == "empty" and status in (403, 404)):
        return oauth_errors.NOT_MICROSOFT
    if status == 451:
        return oauth_errors.BLOCKED
    return STATUSES.get(status, BAD_REQUEST)
