"""Microsoft Graph's permissions as far as the portal offers them; the list is data/permissions.toml."""

import re
from dataclasses import dataclass

from connections.microsoft import data_files

# Delegated and application permissions in Microsoft's own words for an app registration's manifest.
SCOPE = "Scope"
ROLE = "Role"


@dataclass(frozen=True, slots=True)
class Permission:
    """One form of a permission; ``type`` is ``Scope`` (delegated) or ``Role`` (application)."""

    name: str
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One permission with the ids of its two forms; "" where Microsoft has no such form."""

    name: str
    delegated_id: str = ""
    application_id: str = ""
    admin_only: bool = False  # even the delegated form needs an admin


_FILE = data_files.load("permissions.toml")
CATALOGUE = _FILE.rows("permissions", Entry, key_field="name")
_COVERS: dict[str, list[str]] = _FILE.content["covers"]
_SPELLING = {name.lower(): name for name in (*CATALOGUE, *_COVERS)}


def spelling(name: str) -> str:
    """The name as Microsoft spells it, or unchanged if the portal does not know it. Entra ignores case."""
    return _SPELLING.get(name.lower(), name)


def covered_by(granted: frozenset[str]) -> frozenset[str]:
    """The granted permissions and all smaller ones they contain, in Microsoft's spelling."""
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
    """What a permission allows, derived from its name: "Contacts.Read" → "contacts: read"."""
    subject, _, rest = name.partition(".")
    verb, *limits = rest.split(".")
    text = f"{_split(subject)}: {_VERBS.get(verb, _split(verb))}"
    if app_only:
        return f"{text}, in the whole organisation"
    if "All" in limits:
        return f"{text}, wherever the account may"
    return f"{text}, also what others share with the account" if "Shared" in limits else text


def _split(words: str) -> str:
    return _CAMEL.sub(" ", words).replace("-", " ").lower()
