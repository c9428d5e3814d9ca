"""Admin consent (identity-platform/v2-admin-consent; older style: v2-oauth2-client-creds-grant-flow)."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode

from connections.microsoft import token_endpoint
from connections.microsoft.classifier import Verdict, classify
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind

V1, V2 = "v1", "v2"
# The newer page does not accept "common"; administrators from any directory use "organizations".
ANY_DIRECTORY = "organizations"
# The codes for Cancel in either style. People who are not administrators come back with other codes.
_CANCELLED = frozenset({"access_denied", "permission_denied", "AADSTS65004"})


@dataclass(frozen=True, slots=True)
class ConsentCallback:
    """The claims of a callback. They prove nothing, because anybody can forge such a link."""

    state: str
    verdict: Verdict

    @property
    def granted(self) -> bool:
        """Whether the callback claims success. Failures set ``admin_consent``, too, but also ``error``."""
        return self.verdict.kind is Kind.OK

    @property
    def cancelled(self) -> bool:
        """Whether the administrator pressed Cancel; anything else is a failure."""
        return self.verdict.code in _CANCELLED


def consent_url(
    cloud: Cloud,
    directory_id: str,
    *,
    client_id: str,
    redirect_uri: str,
    state: str,
    scopes: Iterable[str] | None = None,
    style: str = V2,
) -> str:
    """Return the consent page's address. The older style or no ``scopes`` requests everything declared."""
    directory = ANY_DIRECTORY if directory_id in ("common", "consumers") else directory_id
    query = {"client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    if style == V1:
        return f"{cloud.authority(directory)}/adminconsent?{urlencode(query)}"
    query["scope"] = token_endpoint.qualified(cloud, scopes) if scopes else cloud.default_scope
    return f"{cloud.authority(directory)}/v2.0/adminconsent?{urlencode(query)}"


def read_callback(query_string: str) -> ConsentCallback:
    """Read a callback, ignoring ``tenant`` and ``scope`` because they can be forged."""
    states = parse_qs(query_string).get("state", [""])
    verdict = classify(where="adminconsent", status=None, headers=None, body=query_string)
    return ConsentCallback(states[0][:200], verdict)
