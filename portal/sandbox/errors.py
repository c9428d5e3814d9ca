"""The errors of Entra ID in the shape Microsoft sends them (identity-platform/reference-error-codes).

One table holds number, ``error`` value, HTTP status and text; recorded responses decided the
``error`` and ``suberror`` where a recording exists.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Meaning:
    """The status, ``error`` value and text of one AADSTS number."""

    error: str
    text: str
    status: int = 400
    suberror: str = ""


MEANINGS: dict[int, Meaning] = {
    16000: Meaning(
        "interaction_required",
        "Either multiple user identities are available for the current request or selected account is not supported "
        "for the scenario.",
    ),
    500011: Meaning(
        "invalid_resource",
        "The resource principal named {resource} was not found in the tenant named {tenant_name}. This can happen if "
        "the application has not been installed by the administrator of the tenant or consented to by any user in the "
        "tenant. You might have sent your authentication request to the wrong tenant.",
    ),
    50011: Meaning(
        "invalid_request",
        "The redirect URI '{redirect_uri}' specified in the request does not match the redirect URIs configured for "
        "the application '{client_id}'. Make sure the redirect URI sent in the request matches one added to your "
        "application in the Azure portal. Navigate to https://aka.ms/redirectUriMismatchError to learn more about how "
        "to troubleshoot this error.",
    ),
    50020: Meaning(
        "access_denied",
        "User account '{upn}' from identity provider '{issuer}' does not exist in tenant '{tenant_name}' and cannot "
        "access the application '{client_id}'({app_name}) in that tenant. The account needs to be added as an external "
        "user in the tenant first. Sign out and sign in again with a different Azure Active Directory user account.",
    ),
    50034: Meaning(
        "invalid_grant",
        "The user account {{EUII Hidden}} does not exist in the {tenant} directory. To sign into this application, the "
        "account must be added to the directory.",
        suberror="bad_token",
    ),
    50055: Meaning("invalid_grant", "The password is expired.", suberror="user_password_expired"),
    50057: Meaning("invalid_grant", "The user account is disabled."),
    50058: Meaning(
        "login_required",
        "A silent sign-in request was sent but no user is signed in. The cookies used to represent the user's session "
        "were not sent in the request to Azure AD.",
    ),
    50059: Meaning(
        "invalid_request",
        "No tenant-identifying information found in either the request or implied by any provided credentials.",
    ),
    50076: Meaning(
        "invalid_grant",
        "Due to a configuration change made by your administrator, or because you moved to a new location, you must "
        "use multi-factor authentication to access '00000003-0000-0000-c000-000000000000'.",
        suberror="basic_action",
    ),
    50105: Meaning(
        "invalid_grant",
        "Your administrator has configured the application {app_name} ('{client_id}') to block users unless they are "
        "specifically granted ('assigned') access to the application. The signed in user '{{EUII Hidden}}' is blocked "
        "because they are not a direct member of a group with access, nor had access directly assigned by an "
        "administrator. Please contact your administrator to assign access to this application.",
    ),
    50126: Meaning("invalid_grant", "Error validating credentials due to invalid username or password."),
    50173: Meaning(
        "invalid_grant",
        "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might have "
        "changed or reset their password. The grant was issued on '{issued}' and the TokensValidFrom date (before "
        "which tokens are not valid) for this user is '{valid_from}'.",
        suberror="bad_token",
    ),
    50194: Meaning(
        "invalid_request",
        "Application '{client_id}'({app_name}) is not configured as a multi-tenant application. Usage of the /common "
        "endpoint is not supported for such apps created after '10/15/2018'. Use a tenant-specific endpoint or "
        "configure the application to be multi-tenant.",
    ),
    50196: Meaning(
        "invalid_grant",
        "The server terminated an operation because it encountered a client request loop. Please contact your app "
        "vendor.",
    ),
    501481: Meaning(
        "invalid_grant",
        "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
    ),
    53003: Meaning(
        "invalid_grant",
        "Access has been blocked by Conditional Access policies. The access policy does not allow token issuance.",
        suberror="message_only",
    ),
    54005: Meaning(
        "invalid_grant",
        "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an existing "
        "refresh token.",
    ),
    65001: Meaning(
        "invalid_grant",
        "The user or administrator has not consented to use the application with ID '{client_id}' named '{app_name}'. "
        "Send an interactive authorization request for this user and resource.",
        suberror="consent_required",
    ),
    65004: Meaning("access_denied", "User declined to consent to access the app."),
    650053: Meaning(
        "invalid_client",
        "The application '{app_name}' asked for scope '{scope}' that doesn't exist on the resource "
        "'00000003-0000-0000-c000-000000000000'. Contact the app vendor.",
    ),
    70000: Meaning("invalid_grant", "The provided value for the '{parameter}' parameter is not valid.{detail}"),
    700005: Meaning(
        "invalid_grant",
        "The provided Authorization Code is intended to use against other tenant, thus rejected. OAuth2 Authorization "
        "Code must be redeemed against same tenant it was acquired for (/common or /{{tenant-ID}} as appropriate).",
    ),
    700016: Meaning(
        "unauthorized_client",
        "Application with identifier '{client_id}' was not found in the directory '{tenant_name}'. This can happen if "
        "the application has not been installed by the administrator of the tenant or consented to by any user in the "
        "tenant. You may have sent your authentication request to the wrong tenant.",
    ),
    700022: Meaning(
        "invalid_scope",
        "The provided value for the input parameter scope is not valid because it contains more than one resource.",
    ),
    700023: Meaning(
        "invalid_client",
        "Client assertion audience claim does not match Realm issuer. Review the documentation at "
        "https://learn.microsoft.com/entra/identity-platform/certificate-credentials.",
        status=401,
    ),
    700024: Meaning(
        "invalid_client",
        "Client assertion is not within its valid time range. Current time: {now}, assertion valid from {valid_from}, "
        "expiry time of assertion {expires}. Review the documentation at "
        "https://learn.microsoft.com/entra/identity-platform/certificate-credentials.",
        status=401,
    ),
    700025: Meaning(
        "invalid_client",
        "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
        status=401,
    ),
    700027: Meaning(
        "invalid_client",
        "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - "
        "{reason}, Thumbprint of key used by client: '{thumbprint}', Please visit the Azure Portal, Graph Explorer or "
        "directly use MS Graph to see configured keys for app Id '{client_id}'.]",
        status=401,
    ),
    70003: Meaning("unsupported_grant_type", "The app requested an unsupported grant type '{grant_type}'."),
    700054: Meaning("unsupported_response_type", "response_type '{response_type}' is not enabled for the application."),
    70007: Meaning("invalid_request", "'{response_mode}' is not a supported value of 'response_mode'."),
    70008: Meaning(
        "invalid_grant",
        "The provided authorization code or refresh token has expired due to inactivity. Send a new interactive "
        "authorization request for this user and resource.",
    ),
    700082: Meaning(
        "invalid_grant",
        "The refresh token has expired due to inactivity. The token was issued on {issued} and was inactive for "
        "90.00:00:00.",
    ),
    700084: Meaning(
        "invalid_grant",
        "The refresh token was issued to a single page app (SPA), and therefore has a fixed, limited lifetime of "
        "1.00:00:00, which cannot be extended. It is now expired and a new sign in request must be sent by the SPA to "
        "the sign in page. The token was issued on {issued}.",
        suberror="bad_token",
    ),
    70011: Meaning(
        "invalid_scope",
        "The provided request must include a 'scope' input parameter. The provided value for the input parameter "
        "'scope' isn't valid. The scope {scope} isn't valid.",
    ),
    70043: Meaning(
        "invalid_grant",
        "The refresh token has expired or is invalid due to sign-in frequency checks by conditional access. The token "
        "was issued on {issued} and the maximum allowed lifetime for this request is {lifetime}.",
        suberror="token_expired",
    ),
    7000112: Meaning("unauthorized_client", "Application '{client_id}'({app_name}) is disabled."),
    7000215: Meaning(
        "invalid_client",
        "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not "
        "the client secret ID, for a secret added to app '{client_id}'.",
        status=401,
    ),
    7000218: Meaning(
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        status=401,
    ),
    7000222: Meaning(
        "invalid_client",
        "The provided client secret keys for app '{client_id}' are expired. Visit the Azure portal to create new keys "
        "for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: "
        "https://aka.ms/certCreds.",
        status=401,
    ),
    7000229: Meaning(
        "invalid_client",
        "The client application {client_id} is missing service principal in the tenant {tenant}. See instructions "
        "here: https://go.microsoft.com/fwlink/?linkid=2225119",
        status=401,
    ),
    90002: Meaning(
        "invalid_tenant",
        "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the "
        "correct cloud. Check with your subscription administrator, this may happen if there are no active "
        "subscriptions for the tenant.",
    ),
    900023: Meaning(
        "invalid_request",
        "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain.",
    ),
    90014: Meaning("invalid_request", "The required field '{parameter}' is missing from the credential."),
    90023: Meaning("invalid_request", "Invalid STS request."),
    900144: Meaning("invalid_request", "The request body must contain the following parameter: '{parameter}'."),
    900561: Meaning(
        "invalid_request", "The endpoint only accepts POST, OPTIONS requests. Received a {method} request.", status=405
    ),
    90094: Meaning("access_denied", "The grant requires admin permission."),
    901002: Meaning("invalid_request", "The 'resource' request parameter is not supported."),
    9001023: Meaning(
        "invalid_request",
        "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or "
        "tenant-specific endpoint.",
    ),
    9002313: Meaning("invalid_grant", "Invalid request. Request is malformed or invalid."),
    9002332: Meaning(
        "invalid_request",
        "Application '{client_id}'({app_name}) is configured for use by Azure Active Directory users only. Please do "
        "not use the /consumers endpoint to serve this request.",
    ),
    9002325: Meaning(
        "invalid_request", "Proof Key for Code Exchange is required for cross-origin authorization code redemption."
    ),
    1002012: Meaning(
        "invalid_scope",
        "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with "
        "/.default suffixed to the resource identifier (application ID URI).",
    ),
}


@dataclass
class EntraError(Exception):
    """Entra's refusal: rendered as JSON by the token endpoint, as a page or a redirect by the authorize endpoint."""

    code: int
    text: str
    error: str
    status: int = 400
    suberror: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def refusal(code: int, *, error: str = "", suberror: str = "", **words: object) -> EntraError:
    """The error with this AADSTS number; ``words`` fill its text, ``error`` and ``suberror`` replace the usual ones."""
    meaning = MEANINGS[code]
    return EntraError(
        code=code,
        text=meaning.text.format(**words),
        error=error or meaning.error,
        status=meaning.status,
        suberror=suberror or meaning.suberror,
    )


def stamp(moment: float) -> str:
    """A time as Entra writes it in an error's fields: ``2016-01-09 02:02:12Z``."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def precise(moment: float) -> str:
    """A time as Entra writes it inside a text, with seven decimals of a second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


@dataclass(frozen=True)
class Trace:
    """The ids that Microsoft's support asks for."""

    trace_id: str
    correlation_id: str

    @classmethod
    def of(cls, client_request_id: str = "") -> "Trace":
        """New ids; the correlation id is the caller's own ``client-request-id`` when it sent a GUID."""
        try:
            correlation = str(uuid.UUID(client_request_id))
        except ValueError:
            correlation = str(uuid.uuid4())
        return cls(trace_id=str(uuid.uuid4()), correlation_id=correlation)


def description(problem: EntraError, trace: Trace, now: float) -> str:
    return (
        f"AADSTS{problem.code}: {problem.text} Trace ID: {trace.trace_id} "
        f"Correlation ID: {trace.correlation_id} Timestamp: {stamp(now)}"
    )


def body(problem: EntraError, trace: Trace, now: float, public_url: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "error": problem.error,
        "error_description": description(problem, trace, now),
        "error_codes": [problem.code],
        "timestamp": stamp(now),
        "trace_id": trace.trace_id,
        "correlation_id": trace.correlation_id,
        "error_uri": f"{public_url}/error?code={problem.code}",
    }
    if problem.suberror:
        answer["suberror"] = problem.suberror
    answer.update(problem.extra)
    return answer
