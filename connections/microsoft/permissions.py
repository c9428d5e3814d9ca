"""The permissions that the portal offers. They are listed in data/permissions.toml.

Those of resources other than Microsoft Graph begin with the resource's key (see resources.py).
"""

import re
from dataclasses import dataclass

from connections.microsoft import data_files, resources
from connections.microsoft.clouds import GRAPH_APP_ID

# Delegated and application permissions, as they are called in the manifest of an app registration.
SCOPE = "Scope"
ROLE = "Role"


@dataclass(frozen=True, slots=True)
class Permission:
    """One form of a permission. ``type`` is ``Scope`` (delegated) or ``Role`` (application).

    ``id`` is empty if Microsoft does not publish it. ``app_id`` is the resource that declares the permission.
    """

    name: str
    type: str
    id: str
    app_id: str = GRAPH_APP_ID


@dataclass(frozen=True, slots=True)
class Entry:
    """A permission with the IDs of its two forms; "" if there is no such form."""

    name: str
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # even the delegated form requires an admin's consent


_FILE = data_files.load("permissions.toml")
CATALOGUE = _FILE.rows("permissions", Entry, key_field="name")
_COVERS: dict[str, list[str]] = _FILE.content["covers"]
_SPELLING = {name.lower(): name for name in (*CATALOGUE, *_COVERS)}


def spelling(name: str) -> str:
    """Return the name as Microsoft spells it, or unchanged if the portal does not know it. Entra ignores case."""
    return _SPELLING.get(name.lower(), name)


def covered_by(granted: frozenset[str]) -> frozenset[str]:
    """Return the granted permissions and all lesser permissions they include, in Microsoft's spelling."""
    covered: set[str] = set()
    waiting = [spelling(name) for name in granted]
    while waiting:
        name = waiting.pop()
        if name not in covered:
            covered.add(name)
            waiting.extend(_COVERS.get(name, ()))
    return frozenset(covered)


_VERBS = {
    "Read": "read",
    "ReadBasic": "read the basic facts",
    "ReadWrite": "read and change",
    "Send": "send",
    "Manage": "manage",
    "FullControl": "control fully",
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def describe(name: str, *, app_only: bool) -> str:
    """Return a description of the permission, based on its name: "Contacts.Read" → "contacts: read"."""
    if resources.of(name) != resources.GRAPH:
        own = describe(resources.short(name), app_only=app_only).removesuffix(": ")
        return f"{resources.label(resources.of(name))}: {own}"
    subject, _, rest = name.partition(".")
    verb, *limits = rest.split(".")
    text = f"{_split(subject)}: {_VERBS.get(verb, _split(verb))}"
    if app_only:
        return f"{text}, in the whole organisation"
    if "All" in limits:
        return f"{text}, wherever the account may"
    return f"{text}, also what others share with the account" if "Shared" in limits else text


def needs_admin(name: str, *, app_only: bool) -> bool:
    """Whether only an administrator can consent to a permission. False for delegated ones unknown to the portal."""
    return app_only or (name in CATALOGUE and CATALOGUE[name].admin_only)


def _split(words: str) -> str:
    return _CAMEL.sub(" ", words).replace("-", " ").lower()
