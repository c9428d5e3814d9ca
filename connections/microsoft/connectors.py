"""The Microsoft services that a new connection can start from, with their capabilities. See data/connectors.toml."""

from dataclasses import dataclass

from connections.microsoft import data_files
from connections.microsoft.capabilities import APP_ONLY, CAPABILITIES, DELEGATED, Capability


@dataclass(frozen=True, slots=True)
class Connector:
    """A Microsoft service. It offers all capabilities of its ``groups``, and those listed in ``capabilities``."""

    key: str
    label: str
    icon: str
    description: str
    preparation: str  # what an administrator has to prepare in Entra
    example: str  # a typical name for a connection to this service
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    least: tuple[str, ...] = ()  # selected when the form opens
    mailboxes: bool = False  # whether shared mailboxes can be attached in the form

    @property
    def offered(self) -> tuple[Capability, ...]:
        """Return the service's capabilities, in the order of capabilities.toml."""
        named = set(self.capabilities)
        return tuple(entry for entry in CAPABILITIES.values() if entry.group in self.groups or entry.key in named)

    @property
    def authentication_types(self) -> tuple[str, ...]:
        """Return the authentication types that support at least one of the service's capabilities."""
        delegated = any(not capability.no_delegated for capability in self.offered)
        app_only = any(not capability.no_application for capability in self.offered)
        return (*([DELEGATED] if delegated else []), *([APP_ONLY] if app_only else []))


def load(name: str = "connectors.toml") -> dict[str, Connector]:
    """Read the connectors. Raises InvalidDataFile if one names a capability or a group that does not exist."""
    file = data_files.load(name)
    connectors = file.rows("connectors", Connector, key_field="key")
    groups = {capability.group for capability in CAPABILITIES.values()}
    for key, connector in connectors.items():
        for group in connector.groups:
            if group not in groups:
                raise file.error(f"connectors.{key}", f"there is no group {group!r}")
        for capability in (*connector.capabilities, *connector.least):
            if capability not in CAPABILITIES:
                raise file.error(f"connectors.{key}", f"there is no capability {capability!r}")
        offered = {capability.key for capability in connector.offered}
        if not offered or not offered.issuperset(connector.least):
            raise file.error(f"connectors.{key}", "it must offer capabilities, and those in least must be among them")
    return connectors


CONNECTORS = load()


def find(text: str) -> list[Connector]:
    """Return the connectors whose texts or capabilities contain every word of ``text``, in the file's order."""
    words = text.casefold().split()
    return [connector for connector in CONNECTORS.values() if all(word in _searched(connector) for word in words)]


def _searched(connector: Connector) -> str:
    texts = [connector.label, connector.description]
    for capability in connector.offered:
        texts += [capability.label, capability.description, *capability.delegated, *capability.application]
    return " ".join(texts).casefold()
