"""The Microsoft Graph permissions that the sandbox knows, and their names in scope strings.

The IDs, and whether the delegated form needs an admin, come from Microsoft's published list of permissions (graph:
permissions-reference). Every application permission needs an admin.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

GRAPH_APP_ID = "00000003-0000-0000-c000-000000000000"
GRAPH = "https://graph.microsoft.com"
OIDC_SCOPES = ("openid", "profile", "email", "offline_access")


@dataclass(frozen=True)
class Permission:
    """One permission. An empty ID means that this form of the permission does not exist."""

    name: str
    title: str  # shown on the consent page
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # the delegated form needs an admin


_TABLE = tomllib.loads((Path(__file__).parent / "data" / "permissions.toml").read_text(encoding="utf-8"))
CATALOGUE = {name: Permission(name, **values) for name, values in _TABLE.items()}
_BY_LOWER = {name.lower(): name for name in CATALOGUE}


@dataclass(frozen=True)
class Resource:
    """An API that tokens can be for. Scopes contain one of its ``addresses``, which becomes the token's ``aud``."""

    key: str
    app_id: str
    addresses: tuple[str, ...]
    listed_under_graph: bool = False  # whether app registrations declare its delegated permissions under Graph

    def declared_under(self, kind: str) -> str:
        """Return the app ID under which an app registration declares permissions of this kind (Scope or Role)."""
        return GRAPH_APP_ID if kind == "Scope" and self.listed_under_graph else self.app_id


GRAPH_KEY = "graph"
_RESOURCES = tomllib.loads((Path(__file__).parent / "data" / "resources.toml").read_text(encoding="utf-8"))
RESOURCES = {GRAPH_KEY: Resource(GRAPH_KEY, GRAPH_APP_ID, (GRAPH,))} | {
    key: Resource(key, values["app_id"], tuple(values["addresses"]), values.get("listed_under_graph", False))
    for key, values in _RESOURCES.items()
}


def resource_of(name: str) -> str:
    """Return the key of the resource for a permission in the catalogue's spelling."""
    return name.rpartition("/")[0] or GRAPH_KEY


def short(name: str) -> str:
    """Return a permission's name without its resource, as in tokens."""
    return name.rpartition("/")[2]


@dataclass(frozen=True)
class RequestedScopes:
    """A parsed scope parameter."""

    oidc: tuple[str, ...]  # the requested ones among openid, profile, email and offline_access
    permissions: tuple[str, ...]  # in the catalogue's spelling
    defaults: tuple[str, ...]  # keys of the resources whose .default was requested
    unknown: tuple[str, ...]  # words that are not names of permissions
    unknown_resources: tuple[str, ...]  # addresses that belong to no resource
    addresses: dict[str, str]  # by resource: the address as the caller wrote it

    @property
    def names(self) -> list[str]:
        """Return all requested names that are known, OIDC scopes first."""
        return [*self.oidc, *self.permissions]

    @property
    def default(self) -> bool:
        return bool(self.defaults)

    @property
    def resources(self) -> list[str]:
        """Return the keys of all requested resources; Graph if only OIDC scopes were requested."""
        return list(self.addresses) or [GRAPH_KEY]

    @property
    def several(self) -> bool:
        return len(self.addresses) + len(self.unknown_resources) > 1

    @property
    def prefix(self) -> str:
        """Return the first resource's address as the caller wrote it, with a final slash."""
        return f"{self.audience}/"

    @property
    def audience(self) -> str:
        """Return the ``aud`` of a token for the first resource."""
        return next(iter(self.addresses.values()), GRAPH)


def parse(scope: str, own_url: str) -> RequestedScopes:
    """Parse a scope parameter.

    Names of Graph's permissions may begin with ``https://graph.microsoft.com/`` or ``own_url/``, or have no address.
    Names are not case-sensitive, as in Entra (identity-platform/scopes-oidc).
    """
    oidc: list[str] = []
    named: list[str] = []
    defaults: list[str] = []
    unknown: list[str] = []
    strangers: list[str] = []
    addresses: dict[str, str] = {}
    for word in scope.split():
        address, _, name = word.rpartition("/")
        if not address and name in OIDC_SCOPES:
            oidc.append(name)
            continue
        key = _resource_at(address, own_url)
        if key is None:
            strangers.append(address)
            continue
        addresses.setdefault(key, address or GRAPH)
        permission = _BY_LOWER.get((name if key == GRAPH_KEY else f"{key}/{name}").lower(), "")
        if name == ".default":
            defaults.append(key)
        elif name in OIDC_SCOPES and key == GRAPH_KEY:
            oidc.append(name)
        elif permission and CATALOGUE[permission].delegated_id:
            named.append(permission)
        else:
            unknown.append(name)
    return RequestedScopes(
        oidc=tuple(dict.fromkeys(oidc)),
        permissions=tuple(dict.fromkeys(named)),
        defaults=tuple(dict.fromkeys(defaults)),
        unknown=tuple(unknown),
        unknown_resources=tuple(dict.fromkeys(strangers)),
        addresses=addresses,
    )


def _resource_at(address: str, own_url: str) -> str | None:
    if address in ("", own_url):
        return GRAPH_KEY
    for resource in RESOURCES.values():
        if address == resource.app_id or address.lower() in resource.addresses:
            return resource.key
    return None


def canonical(name: str) -> str:
    """Return a permission's name in the catalogue's spelling. Raises ValueError if it is unknown.

    The name of a permission of Graph may begin with Graph's address.
    """
    permission = _BY_LOWER.get(name.removeprefix(f"{GRAPH}/").lower())
    if permission is None:
        raise ValueError(f"The sandbox knows no permission called {name!r}.")
    return permission
