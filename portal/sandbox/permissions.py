"""The Microsoft Graph permissions the sandbox knows, and how scope strings name them.

The ids, and whether the delegated form needs an admin, come from Microsoft's published permission list (graph:
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
    """One permission; an empty id means that this form of it does not exist."""

    name: str
    title: str  # shown on the consent page
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # the delegated form needs an admin


_TABLE = tomllib.loads((Path(__file__).parent / "data" / "permissions.toml").read_text(encoding="utf-8"))
CATALOGUE = {name: Permission(name, **values) for name, values in _TABLE.items()}
_BY_LOWER = {name.lower(): name for name in CATALOGUE}


@dataclass(frozen=True)
class RequestedScopes:
    """A parsed scope parameter."""

    oidc: tuple[str, ...]  # those of openid, profile, email, offline_access that were requested
    graph: tuple[str, ...]  # canonical permission names
    default: bool  # whether {resource}/.default was requested
    unknown: tuple[str, ...]  # words that name no permission
    resources: tuple[str, ...]  # resources other than Graph
    prefix: str  # how the caller wrote Graph's URL, including the final slash

    @property
    def names(self) -> list[str]:
        """Return all requested names that are known, OIDC scopes first."""
        return [*self.oidc, *self.graph]


def parse(scope: str, own_url: str) -> RequestedScopes:
    """Parse a scope parameter; Graph may be written as ``https://graph.microsoft.com/``, ``own_url/`` or not at all.

    Names are case-insensitive, as at Entra (identity-platform/scopes-oidc).
    """
    oidc: list[str] = []
    graph: list[str] = []
    unknown: list[str] = []
    resources: list[str] = []
    default = False
    prefix = ""
    for word in scope.split():
        resource, _, name = word.rpartition("/")
        if resource and resource not in (GRAPH, own_url, GRAPH_APP_ID):
            resources.append(resource)
            continue
        prefix = prefix or (f"{resource}/" if resource else "")
        if name == ".default":
            default = True
        elif name in OIDC_SCOPES:
            oidc.append(name)
        elif name.lower() in _BY_LOWER and CATALOGUE[_BY_LOWER[name.lower()]].delegated_id:
            graph.append(_BY_LOWER[name.lower()])
        else:
            unknown.append(name)
    return RequestedScopes(
        oidc=tuple(dict.fromkeys(oidc)),
        graph=tuple(dict.fromkeys(graph)),
        default=default,
        unknown=tuple(unknown),
        resources=tuple(dict.fromkeys(resources)),
        prefix=prefix or f"{GRAPH}/",
    )


def canonical(name: str) -> str:
    """Return the catalogue's spelling of a permission name without resource prefix. Raises ValueError if unknown."""
    permission = _BY_LOWER.get(name.rpartition("/")[2].lower())
    if permission is None:
        raise ValueError(f"The sandbox knows no permission called {name!r}.")
    return permission
