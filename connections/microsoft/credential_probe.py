"""Tests whether Microsoft accepts an application's credential. No sign-in and no permission is needed.

In a directory, the test is a client-credentials request. Microsoft authenticates the client before anything else, and
an application without permissions gets a token without roles (identity-platform/v2-oauth2-client-creds-grant-flow).

A shared endpoint has no directory, so client credentials fail there with AADSTS50059. Instead, the portal tries to
redeem a refresh token that cannot exist. AADSTS70000 and 9002313 then mean that only the token was rejected, and the
client was accepted; this is inferred, as Microsoft does not document it. A wrong credential is rejected earlier
(7000215, 7000222, 700027, 700016).
"""

from dataclasses import dataclass, replace

from connections.errors import MicrosoftRefused
from connections.microsoft import data_files, http, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind

# Clearly not a refresh token, and easy to recognise in Entra's sign-in logs.
_IMPOSSIBLE_TOKEN = "credential-check-by-connection-portal"  # noqa: S105 - no secret, a sentence
_TOKEN_REJECTED = frozenset({"AADSTS70000", "AADSTS9002313"})
# The application is not installed in the directory; the credential itself may still be valid.
NEEDS_CONSENT = "AADSTS7000229"
NOT_INSTALLED = frozenset({NEEDS_CONSENT, "AADSTS700016"})
ANY_DIRECTORY = "organizations"


def probe(application: token_endpoint.Application, *, shared: bool, multitenant: bool) -> tuple[str, ...] | Verdict:
    """Return the granted roles if Microsoft accepts the credential, otherwise the verdict. Refusals raise no error.

    If a multitenant application is not installed in the directory, its credential is tested at ``organizations``.
    """
    try:
        if shared:
            return _at_shared_endpoint(application)
        answer = _send(token_endpoint.client_credentials_request(application, None))
    except MicrosoftRefused as unusable:  # because of the token file, before anything was sent
        return unusable.verdict
    if isinstance(answer, Verdict) and multitenant and answer.code in NOT_INSTALLED:
        second = _at_shared_endpoint(replace(application, directory_id=ANY_DIRECTORY))
        # A second request that fails because of an outage says nothing about the credential.
        inconclusive = isinstance(second, Verdict) and second.kind in (Kind.TRANSIENT, Kind.THROTTLED)
        return answer if inconclusive else second
    return answer


def _at_shared_endpoint(application: token_endpoint.Application) -> tuple[str, ...] | Verdict:
    """Test at ``common``, ``organizations`` or ``consumers``. Returns () if accepted, otherwise the verdict."""
    answer = _send(token_endpoint.refresh_request(application, _IMPOSSIBLE_TOKEN, ("openid", "offline_access"), None))
    return () if isinstance(answer, Verdict) and answer.code in _TOKEN_REJECTED else answer


def _send(request: http.Request[None]) -> tuple[str, ...] | Verdict:
    answer = token_endpoint.read_answer(http.client().send(request))
    return answer if isinstance(answer, Verdict) else answer.granted


@dataclass(frozen=True, slots=True)
class Advice:
    """What the admin should do when Microsoft rejects a new application, and which form field is wrong."""

    entry: str  # "credential", "client_id", "tenant" or "audience"
    cause: str
    action: str


ADVICE = data_files.load("credential_advice.toml").rows("advice", Advice)


def advice(verdict: Verdict) -> Advice:
    """Return the advice for this verdict's code. Without one, use the verdict's own sentences."""
    default = Advice("credential" if verdict.credential else "client_id", verdict.cause, verdict.action)
    return ADVICE.get(verdict.code, default)
