"""Microsoft's clouds: where one signs in and where Graph is.

Hosts: Microsoft's "National cloud deployments" (graph/deployments) and "National clouds" (identity-platform).
A table and not code, because Microsoft adds sovereign clouds.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

# Microsoft Graph's own application id, the resource whose permissions we ask for.
GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"
# Delegated sign-ins of personal accounts all come from this directory (identity-platform/v2-protocols-oidc).
CONSUMERS_TID = "9188040d-6c67-4c5b-b112-36a304b66dad"


@dataclass(frozen=True, slots=True)
class Cloud:
    """One Microsoft cloud. ``login`` and ``graph`` are base URLs without a trailing slash."""

    key: str
    label: str
    login: str
    graph: str
    portal: str  # where an admin manages app registrations
    cli_name: str  # Azure CLI: az cloud set --name

    def authority(self, directory_id: str) -> str:
        """Base URL of everything about one directory."""
        return f"{self.login}/{directory_id}"

    def token_url(self, directory_id: str) -> str:
        """The token endpoint (identity-platform/v2-oauth2-auth-code-flow)."""
        return f"{self.login}/{directory_id}/oauth2/v2.0/token"

    def discovery_url(self, directory_id: str) -> str:
        """The OpenID Connect discovery document (identity-platform/v2-protocols-oidc)."""
        return f"{self.login}/{directory_id}/v2.0/.well-known/openid-configuration"

    def scope(self, permission: str) -> str:
        """A Graph permission fully qualified, as Microsoft wants it in ``scope``."""
        return f"{self.graph}/{permission}"

    @property
    def default_scope(self) -> str:
        """What a client-credentials request must send (identity-platform/scopes-oidc)."""
        return self.scope(".default")


CLOUDS: dict[str, Cloud] = {
    cloud.key: cloud
    for cloud in (
        Cloud(
            "global",
            "Microsoft 365 (worldwide, GCC)",
            "https://login.microsoftonline.com",
            "https://graph.microsoft.com",
            "https://portal.azure.com",
            "AzureCloud",
        ),
        Cloud(
            "usgov_l4",
            "US Government L4 (GCC High)",
            "https://login.microsoftonline.us",
            "https://graph.microsoft.us",
            "https://portal.azure.us",
            "AzureUSGovernment",
        ),
        Cloud(
            "usgov_l5",
            "US Government L5 (DoD)",
            "https://login.microsoftonline.us",
            "https://dod-graph.microsoft.us",
            "https://portal.azure.us",
            "AzureUSGovernment",
        ),
        Cloud(
            "china",
            "China (21Vianet)",
            "https://login.partner.microsoftonline.cn",
            "https://microsoftgraph.chinacloudapi.cn",
            "https://portal.azure.cn",
            "AzureChinaCloud",
        ),
    )
}

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def add_sandbox(url: str) -> None:
    """Add (or move) the ``sandbox`` environment; an empty URL removes it.

    Raises ValueError for plain http to anything but this machine: tokens would travel in clear.
    """
    if not url:
        CLOUDS.pop("sandbox", None)
        return
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("MICROSOFT_SANDBOX_URL must be https, or http on localhost.")
    url = url.rstrip("/")
    CLOUDS["sandbox"] = Cloud("sandbox", "Sandbox (stand-in, not Microsoft)", url, url, url, "")


def cloud(key: str) -> Cloud:
    """The cloud with this key. Raises KeyError if it is not configured (any more)."""
    return CLOUDS[key]


def choices() -> list[tuple[str, str]]:
    """Key and label of every configured cloud, for a form."""
    return [(found.key, found.label) for found in CLOUDS.values()]
