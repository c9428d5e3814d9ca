"""Microsoft's clouds, with the addresses for signing in and for Microsoft Graph. They are in data/clouds.toml."""

import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit

from connections.microsoft import data_files

# The application ID of Microsoft Graph, whose permissions the portal requests.
GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"
# Delegated sign-ins by personal accounts all come from this directory (identity-platform/v2-protocols-oidc).
CONSUMERS_TID = "9188040d-6c67-4c5b-b112-36a304b66dad"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud. ``login`` and ``graph`` are base URLs without a trailing slash."""

    key: str
    label: str
    login: str
    graph: str
    portal: str  # where an admin manages app registrations
    cli_name: str  # the name for "az cloud set --name" in the Azure CLI
    # The audience of assertions that replace a secret (workload-identity-federation-config-app-trust-managed-identity).
    token_exchange_audience: str = "api://AzureADTokenExchange"  # noqa: S105 - an address, no secret

    def authority(self, directory_id: str) -> str:
        return f"{self.login}/{directory_id}"

    def token_url(self, directory_id: str) -> str:
        # identity-platform/v2-oauth2-auth-code-flow
        return f"{self.login}/{directory_id}/oauth2/v2.0/token"

    def discovery_url(self, directory_id: str) -> str:
        # OpenID Connect: identity-platform/v2-protocols-oidc
        return f"{self.login}/{directory_id}/v2.0/.well-known/openid-configuration"

    def scope(self, permission: str) -> str:
        """Return a Graph permission with Graph's address, as the ``scope`` parameter requires."""
        return f"{self.graph}/{permission}"

    @property
    def default_scope(self) -> str:
        """The only scope that a client-credentials request may use (identity-platform/scopes-oidc)."""
        return self.scope(".default")


CLOUDS = data_files.load("clouds.toml").rows("clouds", Cloud, key_field="key")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def add_sandbox(url: str) -> None:
    """Add or move the cloud ``sandbox``; an empty ``url`` removes it. Raises ValueError for plain http to another
    machine.
    """
    if not url:
        CLOUDS.pop("sandbox", None)
        return
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("MICROSOFT_SANDBOX_URL must be https, or http on localhost.")
    url = url.rstrip("/")
    CLOUDS["sandbox"] = Cloud("sandbox", "Sandbox (not Microsoft)", url, url, url, "")


def cloud(key: str) -> Cloud:
    """Return the cloud. Raises KeyError if no cloud with this key is configured."""
    return CLOUDS[key]


def choices() -> list[tuple[str, str]]:
    return [(cloud.key, cloud.label) for cloud in CLOUDS.values()]


def is_guid(text: str) -> bool:
    """Whether this is a GUID written with hyphens, in upper or lower case."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
