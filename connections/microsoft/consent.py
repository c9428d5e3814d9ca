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
# The newer page does not accept "common". For administrators from any directory, it needs "organizations".
ANY_DIRECTORY = "organizations"
LONGEST_SCOPE = 4000
_GUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
_SCOPE = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,99}")
# The codes for Cancel in both styles. People who are not administrators return with other codes.
_CANCELLED = frozenset({"access_denied", "permission_denied", "AADSTS65004"})


@dataclass(frozen=True, slots=True)
class ConsentCallback:
    """What a consent callback says. It proves nothing, because anybody can forge such a link."""

    state: str
    verdict: Verdict
    tenant: str = ""  # GUID of the directory, if the callback contains one
    scopes: tuple[str, ...] = ()  # short names of the delegated permissions in the callback

    @property
    def granted(self) -> bool:
        """Whether the callback reports success. A failure also sets ``admin_consent``, but it sets ``error``, too."""
        return self.verdict.kind is Kind.OK

    @property
    def cancelled(self) -> bool:
        """Whether the administrator pressed Cancel. Other errors are failures."""
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
    """Return the address of the consent page.

    Without ``scopes``, and always in the older style, the page asks for all permissions that the app registration
    declares.
    """
    directory = ANY_DIRECTORY if directory_id in ("common", "consumers") else directory_id
    query = {"client_id": client_id, "redirect_uri": redirect_uri, "state": state}
    if style == V1:
        return f"{cloud.authority(directory)}/adminconsent?{urlencode(query)}"
    # One request can cover the permissions of several resources.
    query["scope"] = " ".join(resources.absolute(cloud, scopes, {})) if scopes else cloud.default_scope
    return f"{cloud.authority(directory)}/v2.0/adminconsent?{urlencode(query)}"


def read_callback(query_string: str) -> ConsentCallback:
    """Parse the query string of a callback. Anybody can forge everything in it except the ``state``."""
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
    """Whether the text is the GUID of a directory in lower case, rather than a domain or a shared endpoint."""
    return bool(_GUID.fullmatch(text))
