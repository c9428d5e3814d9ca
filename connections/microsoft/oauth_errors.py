"""What `error` and `suberror` of an answer mean, and what to say when there is no code at all.

Sources: Microsoft: identity-platform/v2-oauth2-auth-code-flow, v2-oauth2-device-code,
v2-admin-consent, reference-error-codes; MSAL error handling ("MsalUiRequiredException
classification"). Nothing in this table is certain: a code has to say it, or a second answer.
"""

from connections.microsoft.error_types import ErrorMeaning, Kind, Who

WAIT = "Nobody needs to do anything; the portal tries again by itself."
WAIT_THEN_CODE = "The portal tries again by itself; if it stays, an IT admin should look the code up at Microsoft."
WAIT_THEN_PROXY = "The portal tries again by itself; if it stays, an IT admin should look for a web proxy in between."

OUTAGE = ErrorMeaning(Kind.TRANSIENT, Who.MICROSOFT, "Microsoft's service has a problem at the moment.", WAIT)
THROTTLED = ErrorMeaning(Kind.THROTTLED, Who.NOBODY, "Microsoft asks the portal to send fewer requests.", WAIT)
UNREADABLE = ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "The portal could not read Microsoft's answer.", WAIT_THEN_CODE)
UNKNOWN = ErrorMeaning(
    Kind.TRANSIENT, Who.NOBODY, "Microsoft gave an error that the portal does not know.", WAIT_THEN_CODE
)
NO_TOKEN = ErrorMeaning(
    Kind.TRANSIENT, Who.NOBODY, "The answer claims success but holds no access token.", WAIT_THEN_PROXY
)
NOT_MICROSOFT = ErrorMeaning(
    Kind.TRANSIENT, Who.NOBODY, "The answer does not look like one of Microsoft's service.", WAIT_THEN_PROXY
)
EMPTY_CALLBACK = ErrorMeaning(
    Kind.TRANSIENT,
    Who.OWNER,
    "The browser came back from Microsoft without an answer.",
    "The person who started this should start it once more.",
)
PENDING = ErrorMeaning(
    Kind.TRANSIENT,
    Who.OWNER,
    "Microsoft is still waiting for the person to finish signing in.",
    "The person should finish the sign-in page that is open.",
)

NO_ANSWER = ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "Microsoft could not be reached.", WAIT)
TRANSPORT = {
    "timeout": ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "Microsoft did not answer in time.", WAIT),
    "dns": ErrorMeaning(
        Kind.TRANSIENT,
        Who.NOBODY,
        "Microsoft's address could not be looked up.",
        "The portal tries again by itself; if it stays, an IT admin should check the server's name service.",
    ),
    "tls": ErrorMeaning(
        Kind.TRANSIENT,
        Who.NOBODY,
        "No secure connection to Microsoft could be made.",
        "The portal tries again by itself; if it stays, an IT admin should check the server's clock and web proxy.",
    ),
    "refused": ErrorMeaning(
        Kind.TRANSIENT,
        Who.NOBODY,
        "The connection to Microsoft was refused.",
        "The portal tries again by itself; if it stays, an IT admin should check the server's firewall.",
    ),
    "reset": ErrorMeaning(Kind.TRANSIENT, Who.NOBODY, "The connection to Microsoft broke off.", WAIT),
    "proxy": ErrorMeaning(
        Kind.TRANSIENT, Who.NOBODY, "The server's web proxy did not let the request through.", WAIT_THEN_PROXY
    ),
}

CLIENT_REJECTED = ErrorMeaning(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not accept the app registration's secret or certificate.",
    "An IT admin must enter a valid client secret or certificate.",
    app_wide=True,
    credential=True,
)
CLIENT_NOT_ALLOWED = ErrorMeaning(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not let this app registration do what it asked for.",
    "An IT admin must check that the app registration exists in the tenant and is enabled.",
    app_wide=True,
)
WRONG_TENANT = ErrorMeaning(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not know this tenant, or it belongs to another Microsoft cloud.",
    "An IT admin must correct the tenant's directory id or its environment.",
    app_wide=True,
)
BAD_REQUEST = ErrorMeaning(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft did not accept the request as it was sent.",
    "An IT admin should compare the app registration with its page in Entra, and otherwise report this as a fault of"
    " the portal.",
)
BAD_SCOPE = ErrorMeaning(
    Kind.APP_CONFIG,
    Who.IT_ADMIN,
    "Microsoft does not know a permission or service that was asked for.",
    "An IT admin must correct the scopes of the app registration.",
)
CONSENT = ErrorMeaning(
    Kind.CONSENT,
    Who.IT_ADMIN,
    "A permission this connection needs is not granted.",
    "An IT admin must grant consent; where people may agree themselves, the owner can sign in again instead.",
)
DECLINED = ErrorMeaning(
    Kind.CONSENT,
    Who.OWNER,
    "The sign-in was cancelled, or the permissions were not granted.",
    "The owner can start again and agree, or ask an IT admin to grant consent.",
)
INTERACTION = ErrorMeaning(
    Kind.REAUTH, Who.OWNER, "Microsoft wants the person to be there and sign in.", "The owner must sign in again."
)
GRANT_REJECTED = ErrorMeaning(
    Kind.REAUTH, Who.OWNER, "Microsoft no longer accepts the stored sign-in.", "The owner must sign in again."
)
PASSWORD_EXPIRED = ErrorMeaning(
    Kind.REAUTH,
    Who.OWNER,
    "The account's password has expired.",
    "The owner must set a new password at Microsoft and then sign in again.",
)
CODE_EXPIRED = ErrorMeaning(
    Kind.REAUTH,
    Who.OWNER,
    "The sign-in code was wrong, or it was not used in time.",
    "The person must start the sign-in again.",
)
BLOCKED = ErrorMeaning(
    Kind.POLICY,
    Who.IT_ADMIN,
    "A rule of the organisation does not allow this sign-in.",
    "An IT admin must find the rule in Entra's sign-in logs and change it or exempt this app.",
)
DEVICE_BLOCKED = ErrorMeaning(
    Kind.POLICY,
    Who.IT_ADMIN,
    "A rule of the organisation asks for a managed device or a protected app.",
    "An IT admin must exempt this app from the device rule; the portal's server cannot be such a device.",
)

SUBERRORS = {
    "basic_action": INTERACTION,
    "additional_action": BLOCKED,
    "message_only": BLOCKED,
    "consent_required": CONSENT,
    "user_password_expired": PASSWORD_EXPIRED,
    "bad_token": GRANT_REJECTED,
    "token_expired": GRANT_REJECTED,
    "protection_policy_required": DEVICE_BLOCKED,
    "protection_policies_required": DEVICE_BLOCKED,  # both spellings are on the wire
    "client_mismatch": DEVICE_BLOCKED,
    "device_authentication_failed": DEVICE_BLOCKED,
    "cancel": DECLINED,  # error_subcode of a callback
}

ERRORS = {
    "invalid_request": BAD_REQUEST,
    "unsupported_grant_type": BAD_REQUEST,
    "unsupported_response_type": BAD_REQUEST,
    "invalid_grant": GRANT_REJECTED,
    "invalid_client": CLIENT_REJECTED,
    "unauthorized_client": CLIENT_NOT_ALLOWED,
    "invalid_resource": BAD_SCOPE,
    "invalid_scope": BAD_SCOPE,
    "invalid_tenant": WRONG_TENANT,
    "invalid_instance": WRONG_TENANT,
    "consent_required": CONSENT,
    "access_denied": DECLINED,
    "permission_denied": DECLINED,
    "authorization_declined": DECLINED,
    "interaction_required": INTERACTION,
    "login_required": INTERACTION,
    "user_password_expired": PASSWORD_EXPIRED,
    "expired_token": CODE_EXPIRED,
    "bad_verification_code": CODE_EXPIRED,
    "authorization_pending": PENDING,
    "slow_down": THROTTLED,
    "temporarily_unavailable": OUTAGE,
    "server_error": OUTAGE,
}

# Speaks of the state of the service, whatever number stands beside it.
OUTAGE_ERROR = "temporarily_unavailable"
