"""The APIs that tokens can be for, besides Microsoft Graph. They are listed in data/resources.toml.

A permission of Graph is written as its short name everywhere in the portal (``Mail.Read``). For other resources, the
resource's key comes first (``exchange/IMAP.AccessAsUser.All``). The key of a resource that is not listed is its address
(``https://api.example.com``).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from connections.errors import InvalidInput
from connections.microsoft import data_files, token_endpoint
from connections.microsoft.clouds import CLOUDS, Cloud
from connections.microsoft.token_endpoint import OIDC_SCOPES, Audience

GRAPH = token_endpoint.GRAPH
# A pseudo permission for app-only tokens that list no roles, because the service itself decides what they may do.
DEFAULT = ".default"
LONGEST_ADDRESS = 150
# For other APIs, the sandbox accepts the addresses of the worldwide cloud.
_ADDRESSES_OF = {"sandbox": "global"}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_ADDRESS = re.compile(rf"https://{_LABEL}(?:\.{_LABEL})+(?:/[A-Za-z0-9._~-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resource:
    """An API. ``delegated`` and ``application`` are its addresses by environment; ``hosts`` are its host patterns."""

    key: str
    label: str
    app_id: str
    delegated: Mapping[str, str]
    application: Mapping[str, str]
    hosts: Mapping[str, str]
    listed_under: str = ""
    lists_roles: bool = True
    example: str = ""

    @property
    def needs_host(self) -> bool:
        return bool(self.hosts)

    def declared_under(self, *, app_only: bool) -> str:
        """Return the app ID under which an app registration must declare the resource's permissions."""
        return self.app_id if app_only or not self.listed_under else self.listed_under


_FILE = data_files.load("resources.toml")
_TABLES = ("delegated", "application", "hosts")


def _read(key: str, values: dict[str, object]) -> Resource:
    tables = {name: values.pop(name, {}) for name in _TABLES}
    tables["application"] = tables["application"] or tables["delegated"]
    row = _FILE.build(_Row, f"resources.{key}", values)
    return Resource(key, row.label, row.app_id, **tables, **{name: getattr(row, name) for name in _OPTIONS})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    app_id: str
    listed_under: str = ""
    lists_roles: bool = True
    example: str = ""


_OPTIONS = ("listed_under", "lists_roles", "example")
RESOURCES = {key: _read(key, dict(values)) for key, values in _FILE.content["resources"].items()}
_BY_ADDRESS = {
    address: resource.key
    for resource in RESOURCES.values()
    for address in (*resource.delegated.values(), *resource.application.values())
} | dict(_FILE.content["aliases"])
_BY_APP_ID = {resource.app_id: resource.key for resource in RESOURCES.values()}


def of(permission: str) -> str:
    """Return the key of the resource that a permission belongs to. The scopes of the sign-in belong to Graph."""
    return permission.rpartition("/")[0] or GRAPH


def short(permission: str) -> str:
    """Return a permission's name without its resource, as it appears in Microsoft's tokens."""
    return permission.rpartition("/")[2]


def label(key: str) -> str:
    return RESOURCES[key].label if key in RESOURCES else key


def needs_host(key: str) -> bool:
    """Whether the resource has a different address in each organisation."""
    return key in RESOURCES and RESOURCES[key].needs_host


def of_resource(permissions: Iterable[str], key: str) -> list[str]:
    """Return the permissions that belong to the resource ``key``, without the scopes of the sign-in."""
    return [name for name in permissions if name not in OIDC_SCOPES and of(name) == key]


def needed(permissions: Iterable[str]) -> list[str]:
    """Return the keys of the resources that these permissions belong to, without duplicates and Graph first."""
    keys = dict.fromkeys(of(name) for name in permissions if name not in OIDC_SCOPES)
    return sorted(keys, key=lambda key: (key != GRAPH, list(RESOURCES).index(key) if key in RESOURCES else 99, key))


def main(permissions: Iterable[str]) -> str:
    """Return the resource of a connection's main token: Graph, unless no permission belongs to Graph."""
    return next(iter(needed(permissions)), GRAPH)


def audience(cloud: Cloud, key: str, hosts: Mapping[str, str]) -> Audience:
    """Return the audience of a token for the resource. ``hosts`` are the organisation's host names, by resource.

    Raises InvalidInput if a host name is required but missing, or if the resource does not exist in this cloud.
    """
    if key == GRAPH:
        return Audience(GRAPH, cloud.graph, cloud.graph)
    resource = RESOURCES.get(key)
    if resource is None:
        if key != typed_address(key):
            raise InvalidInput(f"“{key[:60]}” isn't a resource.", action="Use its key, or its https:// address.")
        return Audience(key, key, key)
    environment = _ADDRESSES_OF.get(cloud.key, cloud.key)
    if resource.needs_host:
        if key not in hosts:
            cause = f"The connection has no address for {resource.label}."
            raise InvalidInput(cause, action=f"Enter it, for example {resource.example}.", field="hosts")
        address = f"https://{_checked_host(resource, environment, hosts[key])}"
        return Audience(key, address, address, resource.lists_roles)
    if environment not in resource.delegated:
        raise InvalidInput(f"{resource.label} isn't available in this environment.", action="Choose another resource.")
    return Audience(key, resource.delegated[environment], resource.application[environment], resource.lists_roles)


def parse_hosts(text: str) -> dict[str, str]:
    """Parse host names such as ``contoso.sharepoint.com``, and return them by the key of their resource.

    Raises InvalidInput for an unknown host, and for two different hosts of the same resource.
    """
    hosts: dict[str, str] = {}
    for word in re.split(r"[\s,;]+", text.strip()):
        host = word.lower().removeprefix("https://").rstrip("/")
        if not host:
            continue
        key = next((key for key in RESOURCES if any(_fits(key, cloud, host) for cloud in RESOURCES[key].hosts)), "")
        if not key:
            examples = " or ".join(resource.example for resource in RESOURCES.values() if resource.needs_host)
            raise InvalidInput(f"“{word[:60]}” isn't a SharePoint or Dataverse address.", action=f"Enter {examples}.")
        if hosts.setdefault(key, host) != host:
            raise InvalidInput(f"You entered two addresses for {RESOURCES[key].label}.", action="Enter one.")
    return hosts


def _fits(key: str, environment: str, host: str) -> bool:
    pattern = RESOURCES[key].hosts.get(environment)
    return pattern is not None and re.fullmatch(rf"{_LABEL}\.{pattern}", host, re.ASCII) is not None


def _checked_host(resource: Resource, environment: str, host: str) -> str:
    if not _fits(resource.key, environment, host):
        raise InvalidInput(
            f"“{host[:60]}” isn't an address of {resource.label} in this environment.",
            action=f"Enter an address such as {resource.example}.",
            field="hosts",
        )
    return host


def key_of(text: str) -> str:
    """Return the key of a resource that was entered as a key, app ID or address. Raises InvalidInput.

    Hosts of SharePoint and Dataverse are rejected, because the connection itself determines which host it is for.
    """
    word = text.strip()
    if word.lower() in RESOURCES:
        return word.lower()
    if word.lower() in _BY_APP_ID:
        return _BY_APP_ID[word.lower()]
    address = typed_address(word)
    if address in {cloud.graph.lower() for cloud in CLOUDS.values()}:
        return GRAPH
    if address in _BY_ADDRESS:
        return _BY_ADDRESS[address]
    host = address.removeprefix("https://").partition("/")[0]
    if any(address.startswith(f"{cloud.graph.lower()}/") for cloud in CLOUDS.values()):
        address = ""
    for key, resource in RESOURCES.items():
        if any(_fits(key, environment, host) for environment in resource.hosts):
            raise InvalidInput(
                f"“{word[:60]}” is an address of {resource.label}.",
                action=f"Use “{key}” instead. The connection contains the address.",
            )
    if not address:
        names = ", ".join(RESOURCES)
        raise InvalidInput(f"“{word[:60]}” isn't a resource.", action=f"Use {names} or an https:// address.")
    return address


def typed_address(text: str) -> str:
    """Return a typed https address in the form of a key (host in lower case); "" if it is not a valid address."""
    scheme, separator, rest = text.rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    address = f"{scheme.lower()}{separator}{host.lower()}{slash}{path}"
    is_graph = any(address == cloud.graph.lower() for cloud in CLOUDS.values())
    return address if is_graph or (len(address) <= LONGEST_ADDRESS and _ADDRESS.fullmatch(address)) else ""


def absolute(cloud: Cloud, permissions: Iterable[str], hosts: Mapping[str, str]) -> list[str]:
    """Return permissions of several resources as scopes with addresses, so that one admin consent can cover them all.

    Permissions of a resource whose host is unknown are left out.
    """
    scopes = []
    for name in permissions:
        try:
            prefix = "" if name in OIDC_SCOPES else f"{audience(cloud, of(name), hosts).delegated}/"
        except InvalidInput:
            continue
        scopes.append(prefix + short(name))
    return scopes
