"""Compare the permissions that a connection had at its last refresh with those that its capabilities need."""

from collections.abc import Collection
from dataclasses import dataclass

from connections.microsoft import capabilities, credential_expiry, permissions, user_lookup
from connections.microsoft.token_endpoint import OIDC_SCOPES
from connections.models import Connection

# Entra adds User.Read to every new app registration. It gives access only to the person's own profile.
_HARMLESS = OIDC_SCOPES | {"User.Read"}
# The portal itself uses these to read the expiration dates of the application's credentials, and who has left.
_OUR_OWN = frozenset({credential_expiry.PERMISSION, user_lookup.PERMISSION})


@dataclass(frozen=True, slots=True)
class Excess:
    name: str
    instead: tuple[str, ...] = ()  # smaller permissions that would suffice; () if it is not needed at all


@dataclass(frozen=True, slots=True)
class Drift:
    """Missing and excessive permissions, as short names of scopes or roles."""

    missing: tuple[str, ...] = ()
    excess: tuple[Excess, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.excess)

    @property
    def needs_admin(self) -> tuple[str, ...]:
        """The missing delegated scopes that only an administrator of the directory can grant."""
        catalogue = permissions.CATALOGUE
        return tuple(name for name in self.missing if name in catalogue and catalogue[name].admin_only)


def find_drift(connection: Connection, *, elsewhere: Collection[str] = ()) -> Drift:
    """Return the connection's drift. There is none before its first sign-in, or without capabilities and scopes.

    ``elsewhere`` are permissions that the connection has although they are not in its token (see
    probes.granted_by_exchange).
    """
    required = required_permissions(connection)
    if connection.connected_at is None or not required:
        return Drift()
    needed = frozenset(required)
    granted = frozenset(permissions.spelling(name) for name in connection.granted)
    ignored = _HARMLESS if connection.is_delegated else _OUR_OWN
    larger = sorted(granted - permissions.covered_by(needed) - ignored)
    excess = []
    for name in larger:
        only_through_it = needed & permissions.covered_by(frozenset({name})) - permissions.covered_by(granted - {name})
        excess.append(Excess(name, tuple(sorted(only_through_it))))
    return Drift(capabilities.missing(required, connection.granted | frozenset(elsewhere)), tuple(excess))


def required_permissions(connection: Connection) -> tuple[str, ...]:
    """Return the minimum permissions for the capabilities and manually entered scopes, without the OIDC scopes."""
    least = capabilities.delegated_scopes if connection.is_delegated else capabilities.application_roles
    names = least(connection.capabilities, connection.extra_scopes)
    return tuple(name for name in names if name not in OIDC_SCOPES)
