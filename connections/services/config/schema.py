"""What a configuration file can say about the organisation's set-up, as plain bundles of values.

``None`` means "not said": it stays as it is, or gets its default where something is added. ``line`` is where the file
says it. Secrets are only ever read (from what a file names) and never shown by repr().
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from connections.errors import PortalError
from connections.services.policy.rules import Rules

VERSION = 1


class WrongEntry(PortalError):
    """Something in a configuration file cannot be used; ``line`` (from 1) is where it stands."""

    code = "wrong_entry"

    def __init__(self, cause: str, *, action: str = "", line: int = 0) -> None:
        super().__init__(cause, action=action)
        self.action = action
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {super().__str__()}" if self.line else super().__str__()


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """A tenant; it is known by its directory, so that it can be renamed."""

    name: str
    environment: str
    directory_id: str
    line: int = field(default=0, compare=False)

    @property
    def directory(self) -> tuple[str, str]:
        """What it is known by."""
        return self.environment, self.directory_id


@dataclass(frozen=True, slots=True)
class CredentialEntry:
    """A credential: a reference to one the portal has, or (``value``) a client secret it shall have."""

    kind: str
    label: str = ""
    thumbprint: str = ""
    expires_at: datetime | None = None
    value: str = field(default="", repr=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class AppEntry:
    """An app registration; it is known by its tenant and client ID, so that it can be renamed."""

    name: str
    tenant: str
    client_id: str
    audience: str | None = None
    allows_delegated: bool | None = None
    allows_app_only: bool | None = None
    default_capabilities: tuple[str, ...] | None = None
    credentials: tuple[CredentialEntry, ...] | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MailboxEntry:
    """A shared mailbox of a tenant."""

    address: str
    tenant: str
    display_name: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class AccountEntry:
    """A service account; ``responsible`` is a person's user name, ``roles`` are it_admin and auditor."""

    name: str
    purpose: str | None = None
    responsible: str | None = None
    roles: tuple[str, ...] | None = None
    enabled: bool | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class TeamEntry:
    """A team; ``members`` are user names."""

    name: str
    entra_group: str | None = None
    members: tuple[str, ...] | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ChannelEntry:
    """An alert channel; its address is a secret, so ``url`` is only there when the file names where to find it."""

    name: str
    kind: str
    url: str = field(default="", repr=False)
    enabled: bool | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """The rules of the organisation (``app_registration`` "") or of one app registration, as a whole."""

    app_registration: str
    rules: Rules
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole file. A section that is None is not managed by the file at all."""

    tenants: tuple[TenantEntry, ...] | None = None
    app_registrations: tuple[AppEntry, ...] | None = None
    shared_mailboxes: tuple[MailboxEntry, ...] | None = None
    service_accounts: tuple[AccountEntry, ...] | None = None
    teams: tuple[TeamEntry, ...] | None = None
    alert_channels: tuple[ChannelEntry, ...] | None = None
    policy: tuple[PolicyEntry, ...] | None = None
