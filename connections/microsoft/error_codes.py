"""What each error of Microsoft Entra ID means to people, as data.

AADSTS numbers: Microsoft: identity-platform/reference-error-codes. OAuth errors: Microsoft:
identity-platform/v2-oauth2-auth-code-flow. The classes and the sentences are ours.
"""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of trouble an answer means."""

    OK = "ok"
    REAUTH = "reauth"  # the person must sign in again
    CONSENT = "consent"  # somebody must grant consent
    APP_CONFIG = "app_config"  # the app registration, the tenant or the request is wrong
    POLICY = "policy"  # an admin must change a policy or an account
    TRANSIENT = "transient"  # it passes by itself
    THROTTLED = "throttled"  # too many requests; it passes by itself
    MAILBOX = "mailbox"  # the token is good, this mailbox cannot be reached
    PERMISSION = "permission"  # the token is good, it lacks a permission


class Who(StrEnum):
    """Who can mend it."""

    OWNER = "owner"
    IT_ADMIN = "it_admin"
    MICROSOFT = "microsoft"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a table of codes."""

    kind: Kind
    who: Who
    cause: str
    action: str
    name: str = ""
    certain: bool = False  # one such answer is proof enough
    app_wide: bool = False
    credential: bool = False
    vague: bool = False  # used for several troubles: `suberror` and `error` decide the class
    family: bool = False  # unknown six and seven digit numbers below it mean much the same


def _entry(kind: Kind, who: Who, cause: str, action: str) -> Entry:
    return Entry(kind, who, cause, action)


SIGN_IN = "The owner must sign in again."
CHECK_APP = "An IT admin must correct the app registration."
WAIT = "Nothing needs to be done; the portal tries again by itself."

# When there is no code to go by.
OUTAGE = Entry(
    Kind.TRANSIENT, Who.MICROSOFT, "Microsoft's service has a problem at the moment.", WAIT
)
THROTTLED = Entry(
    Kind.THROTTLED, Who.NOBODY, "Microsoft asks us to send fewer requests.", WAIT
)
NO_ANSWER = Entry(Kind.TRANSIENT, Who.NOBODY, "Microsoft could not be reached.", WAIT)
NO_TOKEN = Entry(
    Kind.TRANSIENT,
    Who.NOBODY,
    "An answer came that says it is good but holds no access token.",
    "The portal tries again; if it stays, an IT admin should check for a proxy in between.",
)
NOT_MICROSOFT = Entry(
    Kind.TRANSIENT,
    Who.NOBODY,
    "The answer does not look like one of Microsoft's sign-in service.",
    "The portal tries again; if it stays, an IT admin should check for a proxy in between.",
)
UNREADABLE = Entry(
    Kind.TRANSIENT, Who.NOBODY, "The portal could not read Microsoft's answer.", WAIT
)
UNKNOWN = Entry(
    Kind.TRANSIENT,
    Who.NOBODY,
    "Microsoft gave an error the portal does not know.",
    "The portal tries again; if it stays, an IT admin should look the code up at Microsoft.",
)
EMPTY_CALLBACK = Entry(
    Kind.TRANSIENT,
    Who.OWNER,
    "The browser came back from Microsoft without an answer.",
    "The person who started the sign-in should start it once more.",
)
TRANSPORT = {
    "timeout": Entry(Kind.TRANSIENT, Who.NOBODY, "Microsoft did not answer in time.", WAIT),
    "dns": Entry(
        Kind.TRANSIENT,
        Who.NOBODY,
        "Microsoft's address could not be looked up.",
        "The portal tries again; if it stays, an IT admin should check the server's name service.",
    ),
    "tls": Entry(
        Kind.TRANSIENT,
        Who.NOBODY,
        "No secure connection to Microsoft could be made.",
        "The portal tries again; if it stays, an IT admin should check the server's clock and proxy.",
    ),
    "refused": Entry(
        Kind.TRANSIENT,
        Who.NOBODY,
        "The connection to Microsoft was refused.",
        "The portal tries again; if it stays, an IT admin should check the server's firewall.",
    ),
    "reset": Entry(Kind.TRANSIENT, Who.NOBODY, "The connection to Microsoft broke off.", WAIT),
    "proxy": Entry(
        Kind.TRANSIENT,
        Who.NOBODY,
        "The server's web proxy did not let the request through.",
        "The portal tries again; if it stays, an IT admin should check the proxy.",
    ),
}

CLIENT_REJECTED = Entry(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not accept the app registration's secret or certificate.",
    "An IT admin must enter a valid client secret or certificate.",
    app_wide=True,
    credential=True,
    certain=True,
)
CLIENT_NOT_ALLOWED = Entry(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not let this app registration do what it asked for.",
    "An IT admin must check that the app registration exists in the tenant and is enabled.",
    app_wide=True,
)
WRONG_TENANT = Entry(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not know the tenant, or it belongs to another Microsoft cloud.",
    "An IT admin must correct the tenant's directory id or its environment.",
    app_wide=True,
)
BAD_REQUEST = Entry(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft did not accept the request as it was sent.",
    "An IT admin must check the app registration; if it is right, this is a fault of the portal.",
)
BAD_SCOPE = Entry(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not know a permission that was asked for.",
    "An IT admin must correct the permissions of the app registration.",
)
CONSENT = Entry(
    Kind.CONSENT,
    Who.IT_ADMIN,
    "The permissions this connection needs are not granted.",
    "An IT admin must grant consent, or the owner agrees when signing in again.",
)
DECLINED = Entry(
    Kind.CONSENT,
    Who.OWNER,
    "The sign-in was cancelled, or the permissions were not granted.",
    "The owner can start again and agree, or ask an IT admin to grant consent.",
)
SIGN_IN_NEEDED = Entry(
    Kind.REAUTH, Who.OWNER, "Microsoft wants the person to sign in again.", SIGN_IN
)
GRANT_REJECTED = Entry(
    Kind.REAUTH,
    Who.OWNER,
    "Microsoft no longer accepts the stored sign-in and does not say why.",
    SIGN_IN,
)
DEVICE_BLOCKED = Entry(
    Kind.POLICY,
    Who.IT_ADMIN,
    "A policy of the organisation asks for a managed device or app.",
    "An IT admin must change the Conditional Access policy or exempt this app.",
)
MESSAGE_ONLY = Entry(
    Kind.POLICY,
    Who.IT_ADMIN,
    "A policy of the organisation does not allow this sign-in.",
    "An IT admin must look at the Conditional Access policies for this account and app.",
)
PASSWORD = Entry(
    Kind.REAUTH,
    Who.OWNER,
    "The account's password has expired.",
    "The owner must set a new password at Microsoft and then sign in again.",
)

# Microsoft's MSAL error handling, "MsalUiRequiredException classification enumeration".
SUBERRORS = {
    "basic_action": SIGN_IN_NEEDED,
    "additional_action": MESSAGE_ONLY,
    "message_only": MESSAGE_ONLY,
    "consent_required": CONSENT,
    "user_password_expired": PASSWORD,
    "bad_token": GRANT_REJECTED,
    "token_expired": GRANT_REJECTED,
    "protection_policy_required": DEVICE_BLOCKED,
    "client_mismatch": DEVICE_BLOCKED,
    "device_authentication_failed": DEVICE_BLOCKED,
    "cancel": DECLINED,
}

# These `error` values speak of the service, whatever number stands beside them.
OUTAGES = frozenset({"temporarily_unavailable", "server_busy", "service_unavailable"})

ERRORS = {
    "invalid_request": BAD_REQUEST,
    "invalid_grant": GRANT_REJECTED,
    "invalid_client": CLIENT_REJECTED,
    "unauthorized_client": CLIENT_NOT_ALLOWED,
    "unsupported_grant_type": BAD_REQUEST,
    "unsupported_response_type": BAD_REQUEST,
    "invalid_resource": BAD_SCOPE,
    "invalid_scope": BAD_SCOPE,
    "invalid_tenant": WRONG_TENANT,
    "invalid_instance": WRONG_TENANT,
    "consent_required": CONSENT,
    "access_denied": DECLINED,
    "permission_denied": DECLINED,
    "authorization_declined": DECLINED,
    "interaction_required": SIGN_IN_NEEDED,
    "login_required": SIGN_IN_NEEDED,
    "user_password_expired": PASSWORD,
    "server_error": OUTAGE,
}

AADSTS: dict[int, Entry] = {
    50173: Entry(
        Kind.REAUTH,
        Who.OWNER,
        "The stored sign-in was revoked, by an administrator or the account's owner.",
        SIGN_IN,
        "FreshTokenNeeded",
        certain=True,
    ),
}


def parent(number: int) -> Entry | None:
    """The entry an unknown longer number belongs to."""
    return None
