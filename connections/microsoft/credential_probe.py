"""Does Microsoft accept this application's credential? Asked without any person and without any permission.

In a directory the question is a client-credentials request: Microsoft authenticates the client before it looks at
anything else, and an application without permissions gets a token without roles
(identity-platform/v2-oauth2-client-creds-grant-flow).

At a shared endpoint there is no directory to ask for, and client credentials end in AADSTS50059. There the portal
redeems a refresh token that cannot exist. Our inference, no statement of Microsoft's: AADSTS70000 or 9002313 speaks
of the token, so the client was believed; a wrong credential is told earlier (7000215, 7000222, 700027, 700016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from connections.microsoft import data_files, http, token_endpoint
from connections.microsoft.classifier import Verdict
from connections.microsoft.error_types import Kind

# Obviously no refresh token, and obviously ours for whoever reads Entra's sign-in log.
_IMPOSSIBLE_TOKEN = "credential-check-by-connection-portal"  # noqa: S105 - no secret, a sentence
_SPEAKS_OF_THE_TOKEN = frozenset({"AADSTS70000", "AADSTS9002313"})
# The application is not installed in the directory; the credential itself may well be right.
NEEDS_CONSENT = "AADSTS7000229"
NOT_INSTALLED = frozenset({NEEDS_CONSENT, "AADSTS700016"})
ANY_DIRECTORY = "organizations"


def in_directory(application: token_endpoint.Application) -> tuple[str, ...] | Verdict:
    """Ask in the application's directory: the roles of the token (maybe none), or the verdict. Never raises."""
    answer = token_endpoint.read_answer(
        http.client().send(token_endpoint.client_credentials_request(application, None))
    )
    return answer if isinstance(answer, Verdict) else answer.granted


def at_shared_endpoint(application: token_endpoint.Application) -> tuple[str, ...] | Verdict:
    """Ask at ``common``, ``organizations`` or ``consumers``: () if the client was believed, or the verdict."""
    request = token_endpoint.refresh_request(application, _IMPOSSIBLE_TOKEN, ("openid", "offline_access"), None)
    answer = token_endpoint.read_answer(http.client().send(request))
    if not isinstance(answer, Verdict):
        return answer.granted
    return () if answer.code in _SPEAKS_OF_THE_TOKEN else answer


def probe(application: token_endpoint.Application, *, shared: bool, multitenant: bool) -> tuple[str, ...] | Verdict:
    """Say whether Microsoft accepts the credential: the granted roles (maybe none), or the verdict.

    A multitenant application that is not installed in this directory yet is asked about at ``organizations``, so
    that its credential can be judged before consent adds it to the directory.
    """
    if shared:
        return at_shared_endpoint(application)
    answer = in_directory(application)
    if isinstance(answer, Verdict) and multitenant and answer.code in NOT_INSTALLED:
        elsewhere = at_shared_endpoint(replace(application, directory_id=ANY_DIRECTORY))
        return elsewhere if not isinstance(elsewhere, Verdict) else _clearer(answer, elsewhere)
    return answer


def _clearer(first: Verdict, second: Verdict) -> Verdict:
    """Of two refusals the one about the credential; an outage on the second call leaves the first standing."""
    return first if second.kind in (Kind.TRANSIENT, Kind.THROTTLED) else second


@dataclass(frozen=True, slots=True)
class Advice:
    """What the admin who registers the application should do about a refusal, and at which entry."""

    entry: str  # "credential", "client_id", "tenant" or "audience"
    cause: str
    action: str


ADVICE = data_files.load("credential_advice.toml").rows("advice", Advice)


def advice(verdict: Verdict) -> Advice:
    """Whom it concerns on the form, and what to do; the verdict's own words where there is no better."""
    found = ADVICE.get(verdict.code)
    if found is not None:
        return found
    return Advice("credential" if verdict.credential else "client_id", verdict.cause, verdict.action)
