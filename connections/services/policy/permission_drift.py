"""Granted permissions beside those that a connection's capabilities need: what is missing, what is more than needed.

Every refresh stores what Microsoft granted, so the comparison is as young as the last refresh. Pure reading: it asks
neither the database nor Microsoft.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from connections.microsoft import capabilities, credential_expiry, permissions
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import Connection

# Entra puts User.Read into every new app registration; it opens the person's own profile only.
_HARMLESS = OIDC_SCOPES | {"User.Read"}
# What the portal itself uses: reading the expiry dates of the application's credentials.
_OUR_OWN = frozenset({credential_expiry.PERMISSION})


@dataclass(frozen=True, slots=True)
class Excess:
    """One granted permission that allows more than is needed."""

    name: str
    # The smaller permissions it stands in for; () if nothing needs it at all.
    instead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Drift:
    """Short names of scopes or roles."""

    missing: tuple[str, ...] = ()
    excess: tuple[Excess, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.excess)

    @property
    def needs_admin(self) -> tuple[str, ...]:
        """Those of the missing delegated scopes that only an administrator of the directory can grant."""
        known = permissions.CATALOGUE
        return tuple(name for name in self.missing if name in known and known[name].admin_only)


def find_drift(connection: Connection, *, elsewhere: Collection[str] = ()) -> Drift:
    """The drift of a connection; none before it was first authorised, or if nobody has said what it needs.

    ``elsewhere`` are permissions it holds although its token does not show them, see mailbox_probes.kept_by_exchange.
    """
    needed = required_permissions(connection)
    if connection.connected_at is None or not needed:
        return Drift()
    missing = capabilities.missing(needed, connection.granted | frozenset(elsewhere))
    return Drift(missing, _excess(connection, frozenset(needed)))


def required_permissions(connection: Connection) -> tuple[str, ...]:
    """The least permissions for the connection's capabilities and typed scopes; the sign-in's own are left out."""
    if connection.is_delegated:
        wanted = capabilities.delegated_scopes(connection.capabilities, connection.extra_scopes)
    else:
        wanted = capabilities.application_roles(connection.capabilities, connection.extra_scopes)
    return tuple(name for name in wanted if name not in OIDC_SCOPES)


def _excess(connection: Connection, needed: frozenset[str]) -> tuple[Excess, ...]:
    allowed = permissions.covered_by(needed)
    ignored = _HARMLESS if connection.is_delegated else _OUR_OWN
    granted = frozenset(permissions.spelling(name) for name in connection.granted)
    larger = sorted(granted - allowed - ignored)
    return tuple(Excess(name, _only_through(name, granted, needed)) for name in larger)


def _only_through(name: str, granted: frozenset[str], needed: frozenset[str]) -> tuple[str, ...]:
    """What is needed and would be lost with this permission."""
    through_others = permissions.covered_by(granted - {name})
    return tuple(sorted(needed & permissions.covered_by(frozenset({name})) - through_others))
