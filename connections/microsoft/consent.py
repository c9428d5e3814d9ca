"""Admin consent (identity-platform/v2-admin-consent; older style: v2-oauth2-client-creds-grant-flow)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode

from connections.microsoft import resources
from connections.microsoft.classifier import Verdict, classify
from connections.microsoft.clouds import Cloud
from connections.microsoft.error_types import Kind

V1, V2 = "v1", "v2"
# The newer page does not accept "common"; administrators from any directory use "organizations".
ANY_DIRECTORY = "organizations"
LONGEST_SCOPE = 4000
_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_SCOPE = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,99}")
# The codes for Cancel in either style. People who are not administrators come back with other codes.
_CANCELLED = frozenset({"access_denied", "permission_denied", "AADSTS65004"})


@dataclass(frozen=True, slots=True)
class ConsentCallback:
    """The claims of a callback. They prove nothing, because anybody can forge such a link."""

    state: str
    verdict: Verdict
    tenant: str = ""  # GUID of the directory, if the callback names one
    scopes: tuple[str, ...] = ()  # short names of the delegated permissions it names

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
    # Several resources can be consented to in one go.
    query["scope"] = " ".join(resources.absolute(cloud, scopes, {})) if scopes else cloud.default_scope
    return f"{cloud.authority(directory)}/v2.0/adminconsent?{urlencode(query)}"


def read_callback(query_string: str) -> ConsentCallback:
    """Read a callback, of which everything but the ``state`` can be forged."""
    fields = {name: values[0] for name, values in parse_qs(query_string).items()}
    verdict = classify(where="adminconsent", status=None, headers=None, body=query_string)
    tenant = fields.get("tenant", "").strip().lower()
    scopes = (scope.rsplit("/", 1)[-1] for scope in fields.get("scope", "")[:LONGEST_SCOPE].split())
    return ConsentCallback(
        fields.get("state", "")[:200],
        verdict,
        tenant if is_directory_id(tenant) else "",
        tuple(scope for scope in scopes if _SCOPE.fullmatch(scope) and scope != ".default"),
    )


def is_directory_id(text: str) -> bool:
    """Whether the text is a directory's GUID in lower case, and not a domain or a shared endpoint."""
    return bool(_GUID.fullmatch(text))
