"""Control commands for app registrations, their credentials, consents and tokens."""

import base64
import hashlib
import secrets
import uuid
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from portal.sandbox import consents, control_commands, federation, request_log, seed, tokens
from portal.sandbox.state import (
    AUDIENCES,
    EVERYBODY,
    SINGLE_TENANT,
    App,
    Certificate,
    FederatedCredential,
    Secret,
    world,
)

PLATFORMS = ("web", "spa", "public")
MOST_FEDERATED = 20
MOST_CHARACTERS = 600
YEAR = 365 * 86400.0


@control_commands.verb
def add_app(
    name: str,
    tenant: str = seed.CONTOSO,
    audience: str = SINGLE_TENANT,
    platform: str = "web",
    redirect_uris: list[str] | None = None,
    delegated: list[str] | None = None,
    application: list[str] | None = None,
    assignment_required: bool = False,
) -> dict[str, Any]:
    """Register an app with one secret (none for a public client).

    Returns client_id, object_id, secret and secret_id.
    """
    control_commands.one_of(audience, AUDIENCES, "audience")
    control_commands.one_of(platform, PLATFORMS, "platform")
    here = world()
    app = App(
        client_id=str(uuid.uuid4()),
        object_id=str(uuid.uuid4()),
        tenant=control_commands.directory_called(tenant).id,
        name=name,
        audience=audience,
        platform=platform,
        redirect_uris=redirect_uris or [],
        delegated=control_commands.permission_names(delegated or []),
        application=control_commands.permission_names(application or []),
        assignment_required=assignment_required,
    )
    secret = None if platform == "public" else _new_secret("First secret", here.now() + 2 * YEAR)
    app.secrets = [secret] if secret else []
    with here.change():
        here.apps[app.client_id] = app
        consents.install(here, app, app.tenant)
    return {
        "client_id": app.client_id,
        "object_id": app.object_id,
        "tenant": app.tenant,
        "secret": secret.value if secret else "",
        "secret_id": secret.id if secret else "",
    }


@control_commands.verb
def set_app(
    client_id: str,
    disabled: bool | None = None,
    disabled_in: list[str] | None = None,
    deleted: bool | None = None,
    name: str | None = None,
    audience: str | None = None,
    platform: str | None = None,
    redirect_uris: list[str] | None = None,
    delegated: list[str] | None = None,
    application: list[str] | None = None,
    mailboxes: list[str] | None = None,
    all_mailboxes: bool = False,
    assignment_required: bool | None = None,
    exchange_role: str = "",
    exchange_mailboxes: list[str] | None = None,
) -> dict[str, Any]:
    """Change the given properties of an app.

    ``disabled_in`` are the directories in which an administrator has disabled it. ``mailboxes`` limits app-only access
    to these addresses; ``all_mailboxes`` true removes the limit. ``exchange_role`` (such as ``Mail.Read``) is what
    Exchange itself allows the app in ``exchange_mailboxes``, whatever its token contains (RBAC for Applications); an
    empty list revokes it.
    """
    app = control_commands.app_with(client_id)
    if audience is not None:
        control_commands.one_of(audience, AUDIENCES, "audience")
    if platform is not None:
        control_commands.one_of(platform, PLATFORMS, "platform")
    given = {
        "disabled": disabled,
        "disabled_in": disabled_in,
        "deleted": deleted,
        "name": name,
        "audience": audience,
        "platform": platform,
        "redirect_uris": redirect_uris,
        "delegated": None if delegated is None else control_commands.permission_names(delegated),
        "application": None if application is None else control_commands.permission_names(application),
        "mailboxes": None if mailboxes is None else [mailbox.lower() for mailbox in mailboxes],
        "assignment_required": assignment_required,
    }
    with world().change():
        for field, value in given.items():
            if value is not None:
                setattr(app, field, value)
        if all_mailboxes:
            app.mailboxes = None
        if exchange_role and exchange_mailboxes is not None:
            _set_exchange_role(app, control_commands.permission_names([exchange_role])[0], exchange_mailboxes)
    return {}


def _set_exchange_role(app: App, role: str, addresses: list[str]) -> None:
    app.exchange_roles.pop(role, None)
    if addresses:
        app.exchange_roles[role] = [address.lower() for address in addresses]


def _new_secret(name: str, expires_at: float) -> Secret:
    value = f"sbx8Q~{secrets.token_urlsafe(26)}.~"
    return Secret(str(uuid.uuid4()), value, name, world().now(), expires_at)


@control_commands.verb
def add_secret(client_id: str, expires_at: float = 0, name: str = "New secret") -> dict[str, Any]:
    """Add a secret to an app.

    ``expires_at`` is in seconds since 1970; 0 means two years from now. Returns id, value and expires_at.
    """
    app = control_commands.app_with(client_id)
    secret = _new_secret(name, expires_at or world().now() + 2 * YEAR)
    with world().change():
        app.secrets.append(secret)
    return {"id": secret.id, "value": secret.value, "expires_at": secret.expires_at}


def _secret(app: App, id: str) -> Secret:
    for secret in app.secrets:
        if secret.id == id:
            return secret
    raise control_commands.Refused(f"The app has no secret with ID {id!r}.")


@control_commands.verb
def expire_secret(client_id: str, id: str) -> dict[str, Any]:
    """Set a secret's expiry date to one second ago."""
    secret = _secret(control_commands.app_with(client_id), id)
    with world().change():
        secret.expires_at = world().now() - 1
    return {}


@control_commands.verb
def remove_secret(client_id: str, id: str) -> dict[str, Any]:
    """Remove a secret from an app."""
    app = control_commands.app_with(client_id)
    secret = _secret(app, id)
    with world().change():
        app.secrets.remove(secret)
    return {}


@control_commands.verb
def add_certificate(client_id: str, pem: str, name: str = "") -> dict[str, Any]:
    """Add a certificate (PEM, without the key) to an app. Returns its id and thumbprints."""
    app = control_commands.app_with(client_id)
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise control_commands.Refused("pem isn't a PEM certificate.") from None
    held = Certificate(
        id=str(uuid.uuid4()),
        pem=pem,
        name=name or certificate.subject.rfc4514_string(),
        sha1=certificate.fingerprint(hashes.SHA1()).hex(),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
        starts_at=certificate.not_valid_before_utc.timestamp(),
        expires_at=certificate.not_valid_after_utc.timestamp(),
    )
    with world().change():
        app.certificates.append(held)
    x5t = base64.urlsafe_b64encode(bytes.fromhex(held.sha256)).decode().rstrip("=")
    return {"id": held.id, "sha1": held.sha1, "sha256": held.sha256, "x5t#S256": x5t}


@control_commands.verb
def remove_certificate(client_id: str, id: str) -> dict[str, Any]:
    """Remove a certificate from an app."""
    app = control_commands.app_with(client_id)
    kept = [certificate for certificate in app.certificates if certificate.id != id]
    if len(kept) == len(app.certificates):
        raise control_commands.Refused(f"The app has no certificate with ID {id!r}.")
    with world().change():
        app.certificates = kept
    return {}


@control_commands.verb
def add_federated_credential(
    client_id: str, issuer: str, subject: str, audiences: list[str], name: str = "portal", delay_s: float = 0
) -> dict[str, Any]:
    """Let an app accept another issuer's tokens, effective after ``delay_s`` seconds. Returns its id.

    Issuer and subject together must be unique within the app, which has at most 20 federated credentials.
    """
    app = control_commands.app_with(client_id)
    if len(app.federated) >= MOST_FEDERATED:
        raise control_commands.Refused(f"An app has at most {MOST_FEDERATED} federated credentials.")
    if any((each.issuer, each.subject) == (issuer, subject) for each in app.federated):
        raise control_commands.Refused("The app has a federated credential with this issuer and subject.")
    if len(audiences) != 1 or max(map(len, (issuer, subject, audiences[0]))) > MOST_CHARACTERS:
        raise control_commands.Refused("There must be one audience, and no value may be longer than 600 characters.")
    here = world()
    credential = FederatedCredential(str(uuid.uuid4()), name, issuer, subject, audiences, here.now() + delay_s)
    with here.change():
        app.federated.append(credential)
    return {"id": credential.id}


@control_commands.verb
def remove_federated_credential(client_id: str, id: str) -> dict[str, Any]:
    """Remove a federated credential from an app."""
    app = control_commands.app_with(client_id)
    with world().change():
        app.federated = [each for each in app.federated if each.id != id]
    return {}


@control_commands.verb
def credential_delay(seconds: float = 0) -> dict[str, Any]:
    """Set how long the token endpoint needs to accept credentials that are added through Graph."""
    with world().change():
        world().credential_delay = seconds
    return {}


@control_commands.verb
def forget_published_keys() -> dict[str, Any]:
    """Read the keys of other issuers again at their next use, as after a day at Microsoft."""
    federation.forget_keys()
    return {}


@control_commands.verb
def set_owners(client_id: str, owners: list[str]) -> dict[str, Any]:
    """Set the applications, by client ID, whose service principals own an app registration."""
    app = control_commands.app_with(client_id)
    with world().change():
        app.owners = [owner.lower() for owner in owners]
    return {}


@control_commands.verb
def assign(client_id: str, upn: str, roles: list[str], groups: list[str] | None = None) -> dict[str, Any]:
    """Assign a person to an app, with app roles and with group ids for the ID token.

    Without either, remove the assignment.
    """
    app, person = control_commands.app_with(client_id), control_commands.person_called(upn)
    with world().change():
        app.app_roles.pop(person.id, None)
        app.groups.pop(person.id, None)
        if roles:
            app.app_roles[person.id] = roles
        if groups:
            app.groups[person.id] = groups
    return {}


@control_commands.verb
def grant_consent(
    client_id: str,
    tenant: str = seed.CONTOSO,
    scopes: list[str] | None = None,
    roles: list[str] | None = None,
    upn: str = "",
    delay_s: float = 0,
) -> dict[str, Any]:
    """Grant delegated ``scopes`` (to one person, or to everybody without ``upn``) and application ``roles``."""
    app, directory, here = control_commands.app_with(client_id), control_commands.directory_called(tenant), world()
    person = control_commands.person_called(upn).id if upn else EVERYBODY
    with here.change():
        if scopes:
            consents.grant(here, app, directory.id, person, control_commands.permission_names(scopes), delay=delay_s)
        if roles:
            consents.grant_roles(here, app, directory.id, control_commands.permission_names(roles), delay=delay_s)
    return {}


@control_commands.verb
def withdraw_consent(client_id: str, tenant: str = seed.CONTOSO, upn: str = "") -> dict[str, Any]:
    """Withdraw one person's consent or, without ``upn``, all consents and the application permissions."""
    app, directory, here = control_commands.app_with(client_id), control_commands.directory_called(tenant), world()
    with here.change():
        consents.withdraw(here, app, directory.id, control_commands.person_called(upn).id if upn else "")
    return {}


@control_commands.verb
def issue_grant(
    client_id: str, upn: str, scopes: list[str], count: int = 1, age_s: float = 0, mfa: bool = False
) -> dict[str, Any]:
    """Grant consent for one person and issue ``count`` refresh tokens without a browser, each with its own grant.

    ``age_s`` backdates the sign-in by this many seconds. Returns refresh_tokens, fingerprints, tenant and oid.
    """
    app, person, here = control_commands.app_with(client_id), control_commands.person_called(upn), world()
    if not 0 < count <= 100_000:
        raise control_commands.Refused("count must be between 1 and 100000.")
    names = list(
        dict.fromkeys(["openid", "profile", "email", "offline_access", *control_commands.permission_names(scopes)])
    )
    with here.change():
        consents.grant(here, app, person.tenant, person.id, names)
    then = here.now() - age_s
    expiries, prints = [], []
    for _ in range(count):
        grant = tokens.Grant(tokens.new_grant_id(), app.client_id, person.id, person.tenant, names, then, then, mfa)
        expiries.append(tokens.seal(here, grant))
        prints.append(request_log.fingerprint(grant.id))
    return {"refresh_tokens": expiries, "fingerprints": prints, "tenant": person.tenant, "oid": person.id}


@control_commands.verb
def describe_token(refresh_token: str) -> dict[str, Any]:
    """Return whose refresh token this is, and the fingerprint under which its calls are counted."""
    here = world()
    grant = tokens.unseal(here, refresh_token)
    if grant is None:
        raise control_commands.Refused("This sandbox never issued that refresh token.")
    return {
        "fingerprint": request_log.fingerprint(grant.id),
        "client_id": grant.client_id,
        "oid": grant.person,
        "upn": here.people[grant.person].upn if grant.person in here.people else "",
        "tenant": grant.tenant,
        "scopes": grant.scopes,
        "authenticated_at": grant.authenticated_at,
        "issued_at": grant.issued_at,
        "sha256": hashlib.sha256(refresh_token.encode()).hexdigest(),
    }
