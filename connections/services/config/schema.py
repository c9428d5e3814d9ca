"""The content of a configuration file as typed values.

``None`` means that the file does not mention the value, so it stays as it is or, for something new, gets its default.
``line`` is the line in the file. Secrets are read from the place the file refers to, and repr() never shows them.
"""

from dataclasses import dataclass, field
from datetime import datetime

from connections.errors import PortalError
from connections.services.policy.rules import Rules

VERSION = 1


class WrongEntry(PortalError):
    """Something in a configuration file cannot be used; ``line`` (starting at 1) says where it is."""

    code = "wrong_entry"

    def __init__(self, cause: str, *, action: str = "", line: int = 0) -> None:
        super().__init__(cause, action=action)
        self.action = action
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {super().__str__()}" if self.line else super().__str__()


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
    """A reference to a credential in the portal or, if ``value`` is set, a client secret to add."""

    kind: str
    label: str = ""
    thumbprint: str = ""
    expires_at: datetime | None = None
    value: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AppEntry(Entry):
    """An app registration, identified by its tenant and client ID so that it can be renamed."""

    name: str
    tenant: str
    client_id: str
    audience: str | None = None
    allows_delegated: bool | None = None
    allows_app_only: bool | None = None
    default_capabilities: tuple[str, ...] | None = None
    credentials: tuple[CredentialEntry, ...] | None = None


@dataclass(frozen=True, slots=True)
class MailboxEntry(Entry):
    address: str
    tenant: str
    display_name: str | None = None


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
    """A whole file, which does not manage the sections that are None."""

    tenants: tuple[TenantEntry, ...] | None = None
    app_registrations: tuple[AppEntry, ...] | None = None
    shared_mailboxes: tuple[MailboxEntry, ...] | None = None
    service_accounts: tuple[AccountEntry, ...] | None = None
    teams: tuple[TeamEntry, ...] | None = None
    alert_channels: tuple[ChannelEntry, ...] | None = None
    policy: tuple[PolicyEntry, ...] | None = None
