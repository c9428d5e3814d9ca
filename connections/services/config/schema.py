"""The content of a configuration file as typed values.

``None`` means that the file does not mention the value. Then an existing object keeps its value, and a new one gets the
default. ``line`` is the line in the file. Secrets are read from the place that the file refers to, and repr() never
shows them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from connections.errors import PortalError
from connections.services.policy.rules import Rules

VERSION = 1


class WrongEntry(PortalError):
    """An entry of a configuration file that cannot be used.

    ``line`` is its line, starting at 1, or 0 if it has none.
    """

    code = "wrong_entry"

    def __init__(self, cause: str, *, action: str = "", line: int = 0) -> None:
        super().__init__(cause, action=action)
        self.action = action
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {super().__str__()}" if self.line else super().__str__()


class WrongEntries(WrongEntry):
    """Several entries of a file that cannot be used, reported together in the order of their lines."""

    def __init__(self, problems: list[WrongEntry]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        first = self.problems[0]
        super().__init__(first.cause, action=first.action, line=first.line)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Problems:
    """Collects the problems in a file, so that all of them are reported together."""

    def __init__(self) -> None:
        self._found: dict[str, WrongEntry] = {}  # by message, because two checks may find the same problem

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note a WrongEntry raised in the block instead of stopping at it."""
        try:
            yield
        except WrongEntry as problem:
            self._found[str(problem)] = problem

    def raise_all(self) -> None:
        if len(self._found) == 1:
            raise next(iter(self._found.values()))
        if self._found:
            raise WrongEntries(list(self._found.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class TenantEntry(Entry):
    """A tenant, identified by its directory so that it can be renamed."""

    name: str
    environment: str
    directory_id: str

    @property
    def directory(self) -> tuple[str, str]:
        return self.environment, self.directory_id


@dataclass(frozen=True, slots=True)
class CredentialEntry(Entry):
    """A credential that is in the portal, or one to add: a client secret or a federated credential.

    A client secret to add has a ``value``, and a federated credential has a ``source`` (AppCredential.Source).
    """

    kind: str
    label: str = ""
    thumbprint: str = ""
    expires_at: datetime | None = None
    value: str = field(default="", repr=False)
    source: str = ""


@dataclass(frozen=True, slots=True)
class AppEntry(Entry):
    """An app registration, identified by its environment and client ID so that it can be renamed."""

    name: str
    tenant: str
    client_id: str
    audience: str | None = None
    allows_delegated: bool | None = None
    allows_app_only: bool | None = None
    default_capabilities: tuple[str, ...] | None = None
    object_id: str | None = None
    renews_credentials: bool | None = None
    other_tenants: tuple[str, ...] | None = None  # names of the other tenants that use it
    credentials: tuple[CredentialEntry, ...] | None = None


@dataclass(frozen=True, slots=True)
class MailboxEntry(Entry):
    address: str
    tenant: str
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class PersonEntry(Entry):
    """A person, who is added if the user name is unknown. The two IDs identify their Microsoft account."""

    user_name: str
    name: str = ""
    email: str = ""
    directory: str = ""
    object_id: str = ""


@dataclass(frozen=True, slots=True)
class AccountEntry(Entry):
    """A service account; ``responsible`` is a person's user name, and ``roles`` may contain it_admin and auditor."""

    name: str
    purpose: str | None = None
    responsible: str | None = None
    roles: tuple[str, ...] | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class TeamEntry(Entry):
    """A team; ``members`` are user names."""

    name: str
    entra_group: str | None = None
    members: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ReferenceEntry(Entry):
    """A connection reference; ``connection_owner`` is the user name of the connection's owner."""

    name: str
    connection: str
    connection_owner: str
    team: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ChannelEntry(Entry):
    """An alert channel. Its address is a secret: ``url`` is set only if the file says where to read it."""

    name: str
    kind: str
    url: str = field(default="", repr=False)
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class PolicyEntry(Entry):
    """All rules for one app registration, or for the organisation if ``app_registration`` is empty."""

    app_registration: str
    rules: Rules


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole file. Sections that are None are not managed by the file."""

    tenants: tuple[TenantEntry, ...] | None = None
    app_registrations: tuple[AppEntry, ...] | None = None
    shared_mailboxes: tuple[MailboxEntry, ...] | None = None
    people: tuple[PersonEntry, ...] | None = None
    service_accounts: tuple[AccountEntry, ...] | None = None
    teams: tuple[TeamEntry, ...] | None = None
    references: tuple[ReferenceEntry, ...] | None = None
    alert_channels: tuple[ChannelEntry, ...] | None = None
    policy: tuple[PolicyEntry, ...] | None = None
