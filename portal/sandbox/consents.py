"""Consents: which permissions were granted to which app, and by whom. Only this module reads and writes them."""

from portal.sandbox import permissions
from portal.sandbox.state import EVERYBODY, App, Consent, Person, RoleGrant, World


def install(world: World, app: App, tenant: str) -> None:
    """Give the app a service principal in the directory, as the first consent in a directory does."""
    key = f"{app.client_id}|{tenant}"
    if key not in world.principals:
        world.principals.append(key)


def installed(world: World, app: App, tenant: str) -> bool:
    return f"{app.client_id}|{tenant}" in world.principals


def grant(world: World, app: App, tenant: str, person: str, scopes: list[str], *, delay: float = 0.0) -> None:
    """Add delegated permissions for one person or EVERYBODY, effective after ``delay`` seconds."""
    install(world, app, tenant)
    key = f"{app.client_id}|{tenant}|{person}"
    had = world.consents.get(key)
    merged = list(dict.fromkeys([*(had.scopes if had else []), *scopes]))
    world.consents[key] = Consent(app.client_id, tenant, person, merged, world.now() + delay if delay else 0.0)


def grant_roles(world: World, app: App, tenant: str, roles: list[str], *, delay: float = 0.0) -> None:
    """Add application permissions, effective after ``delay`` seconds."""
    install(world, app, tenant)
    key = f"{app.client_id}|{tenant}"
    had = world.role_grants.get(key)
    merged = list(dict.fromkeys([*(had.roles if had else []), *roles]))
    world.role_grants[key] = RoleGrant(app.client_id, tenant, merged, world.now() + delay if delay else 0.0)


def withdraw(world: World, app: App, tenant: str, person: str = "") -> None:
    """Remove the delegated consent of one person or EVERYBODY. Without a person, remove all consents and roles."""
    if person:
        world.consents.pop(f"{app.client_id}|{tenant}|{person}", None)
        return
    for key in [key for key in world.consents if key.startswith(f"{app.client_id}|{tenant}|")]:
        del world.consents[key]
    world.role_grants.pop(f"{app.client_id}|{tenant}", None)


def granted(world: World, app: App, person: Person) -> set[str] | None:
    """Return the delegated permissions in effect for this person; None if there is no consent."""
    granted: set[str] | None = None
    for who in (person.id, EVERYBODY):
        consent = world.consents.get(f"{app.client_id}|{person.tenant}|{who}")
        if consent is not None and consent.effective_at <= world.now():
            granted = (granted or set()) | set(consent.scopes)
    return granted


def roles(world: World, app: App, tenant: str) -> list[str]:
    """Return the application permissions in effect for the app in the directory."""
    had = world.role_grants.get(f"{app.client_id}|{tenant}")
    return list(had.roles) if had is not None and had.effective_at <= world.now() else []


def declared(app: App, wanted: permissions.RequestedScopes) -> list[str]:
    """Return the delegated permissions for a request with ``.default``: all that the app registration declares."""
    return list(app.delegated) if wanted.default else []


def missing(world: World, app: App, person: Person, wanted: permissions.RequestedScopes) -> list[str]:
    """Return the permissions that need consent before this request can succeed."""
    had = granted(world, app, person)
    requested = list(wanted.permissions)
    if wanted.default:
        # .default never extends an existing consent (identity-platform/scopes-oidc, "The .default scope").
        requested += [] if had else [name for name in declared(app, wanted) if name not in permissions.OIDC_SCOPES]
    lacking = [name for name in dict.fromkeys(requested) if name not in (had or set())]
    if had is None:
        return [*wanted.oidc, *(lacking or requested)] or ["openid"]
    return lacking


def needs_admin(world: World, person: Person, names: list[str]) -> bool:
    """Whether only an admin can grant these permissions: one is admin-only, or the directory forbids user consent."""
    directory = world.directories[person.tenant]
    if not directory.user_consent:
        return True
    return any(permissions.CATALOGUE[name].admin_only for name in names)
