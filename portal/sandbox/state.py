"""The sandbox's state: directories, people, apps, consents and the clock, protected by one lock.

The state is in the memory of one process. With a state file, each change is also written to disk atomically, so that a
restarted demo keeps its people, its consents, its signing key and all tokens that it has issued.
"""

import contextlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

CONSUMERS = (
    "9188040d-6c67-4c5b-b112-36a304b66dad"  # the tenant of personal accounts (identity-platform/v2-protocols-oidc)
)
SINGLE_TENANT = "AzureADMyOrg"
MULTI_TENANT = "AzureADMultipleOrgs"
AUDIENCES = (SINGLE_TENANT, MULTI_TENANT, "AzureADandPersonalMicrosoftAccount", "PersonalMicrosoftAccount")
EVERYBODY = "*"  # in a consent: everybody in the directory


@dataclass
class Directory:
    id: str
    name: str
    domain: str
    user_consent: bool = True  # whether people may consent for themselves


@dataclass
class Person:
    """A user account. Times are in seconds since 1970 by the sandbox's clock."""

    id: str
    tenant: str
    upn: str
    name: str
    password: str
    mail: str = ""
    job_title: str = ""
    admin: bool = False
    guest: bool = False
    licensed: bool = True
    disabled: bool = False
    deleted: bool = False
    mfa_required: bool = False
    password_expired: bool = False
    ca_blocked: bool = False
    sign_in_frequency_s: int = 0  # 0 means no such policy
    tokens_valid_from: float = 0.0
    calendar_members: list[str] = field(default_factory=list)  # user names with whom the calendar is shared


@dataclass
class SharedMailbox:
    """A mailbox without a sign-in of its own. Its members have Full Access in Exchange."""

    id: str
    tenant: str
    address: str
    name: str
    members: list[str] = field(default_factory=list)
    app_scope: list[str] | None = (
        None  # client IDs that may open it without a person; None means every app with the role
    )
    inbox_members: list[str] = field(default_factory=list)  # people who see only the inbox folder
    senders: list[str] | None = None  # user names with Send As; None means every member
    calendar_members: list[str] = field(default_factory=list)  # user names with whom only the calendar is shared


@dataclass
class Secret:
    id: str
    value: str
    name: str
    starts_at: float
    expires_at: float
    effective_at: float = 0.0  # when the token endpoint starts to accept it


@dataclass
class Certificate:
    id: str
    pem: str
    name: str
    sha1: str  # hex thumbprints of the certificate in DER form
    sha256: str
    starts_at: float
    expires_at: float
    effective_at: float = 0.0


@dataclass
class FederatedCredential:
    """The tokens of another issuer, which an app accepts instead of a secret."""

    id: str
    name: str
    issuer: str
    subject: str
    audiences: list[str]
    effective_at: float = 0.0


@dataclass
class App:
    client_id: str
    object_id: str
    tenant: str
    name: str
    audience: str = SINGLE_TENANT
    platform: str = "web"  # web, spa or public: the platform its redirect URIs are registered for
    redirect_uris: list[str] = field(default_factory=list)
    delegated: list[str] = field(default_factory=list)
    application: list[str] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    federated: list[FederatedCredential] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)  # client IDs of the applications that own this one
    app_roles: dict[str, list[str]] = field(default_factory=dict)  # person ID -> app roles
    groups: dict[str, list[str]] = field(default_factory=dict)  # person ID -> IDs of the groups in the ID token
    assignment_required: bool = False
    mailboxes: list[str] | None = None  # mailboxes that app-only access is limited to; None means all
    # Permissions from Exchange (RBAC for Applications) with their addresses. They are not in any token.
    exchange_roles: dict[str, list[str]] = field(default_factory=dict)
    disabled: bool = False
    disabled_in: list[str] = field(default_factory=list)  # directories in which the enterprise application is disabled
    deleted: bool = False


@dataclass
class Consent:
    """Delegated permissions that a person granted, or an admin for everybody, effective from ``effective_at``."""

    client_id: str
    tenant: str
    person: str  # a person's ID or EVERYBODY
    scopes: list[str]
    effective_at: float = 0.0


@dataclass
class RoleGrant:
    """Application permissions that an admin granted, effective from ``effective_at``."""

    client_id: str
    tenant: str
    roles: list[str]
    effective_at: float = 0.0


@dataclass
class Code:
    client_id: str
    authority: str  # the tenant segment of the authorize request
    person: str
    redirect_uri: str
    scope: str
    nonce: str
    challenge: str
    challenge_method: str
    grant: str
    authenticated_at: float
    mfa: bool
    expires_at: float
    tells_auth_time: bool = False  # whether the ID token says when the person entered their password
    redeemed: bool = False


class World:
    """The complete state. Change it only within ``with world.change():``."""

    def __init__(self, *, public_url: str, portal_url: str, path: Path | None = None) -> None:
        self.public_url = public_url.rstrip("/")
        self.portal_url = portal_url.rstrip("/")
        self.path = path
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.codes: dict[str, Code] = {}
        self.clear()
        self.make_keys()

    def clear(self) -> None:
        """Clear everything except the keys."""
        self.directories: dict[str, Directory] = {}
        self.people: dict[str, Person] = {}
        self.mailboxes: dict[str, SharedMailbox] = {}
        self.apps: dict[str, App] = {}
        self.consents: dict[str, Consent] = {}
        self.role_grants: dict[str, RoleGrant] = {}
        self.principals: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.clock_offset = 0.0
        self.token_lifetime = 0  # seconds; 0 means random, between 60 and 90 minutes, as at Microsoft
        self.consent_lie = "none"
        self.credential_delay = 0.0  # seconds until the token endpoint accepts a credential added through Graph
        self.codes.clear()

    def make_keys(self) -> None:
        """Generate new keys, which invalidates all tokens and browser sessions."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.use_keys(
            pem.decode(), secrets.token_urlsafe(20), Fernet.generate_key().decode(), secrets.token_urlsafe(40)
        )

    def use_keys(self, signing_pem: str, kid: str, token_key: str, cookie_key: str) -> None:
        self.keys = {"signing_pem": signing_pem, "kid": kid, "token_key": token_key, "cookie_key": cookie_key}
        key = serialization.load_pem_private_key(signing_pem.encode(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self.signing_key = key
        self.kid = kid
        self.fernet = Fernet(token_key.encode())
        self.cookie_key = cookie_key

    def now(self) -> float:
        """Return the sandbox's time, in seconds since 1970."""
        return time.time() + self.clock_offset

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Hold the lock during the change. Then write the state file, if there is one."""
        with self.lock:
            yield
            if self.path is not None:
                self._write(self.path)

    def directory(self, segment: str) -> Directory | None:
        """Return the directory for a tenant segment (GUID, verified domain or ``consumers``); None if there is none."""
        wanted = segment.lower()
        if wanted == "consumers":
            return self.directories.get(CONSUMERS)
        if wanted in self.directories:
            return self.directories[wanted]
        return next((directory for directory in list(self.directories.values()) if directory.domain == wanted), None)

    def person_called(self, name: str, tenant: str | None = None) -> Person | None:
        """Return the person with this user name, mail address or ID. Without a tenant, guest accounts are left out."""
        wanted = name.strip().lower()
        for person in list(self.people.values()):  # a copy, because another thread may add people
            if person.deleted or (tenant is not None and person.tenant != tenant):
                continue
            if tenant is None and person.guest:
                continue
            if wanted in (person.upn.lower(), person.mail.lower(), person.id):
                return person
        return None

    def app(self, client_id: str) -> App | None:
        """Return the app registration, unless it has been deleted."""
        app = self.apps.get(client_id.strip().lower())
        return None if app is None or app.deleted else app

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON values, without the keys."""
        return {
            "directories": [asdict(item) for item in self.directories.values()],
            "people": [asdict(item) for item in self.people.values()],
            "mailboxes": [asdict(item) for item in self.mailboxes.values()],
            "apps": [asdict(item) for item in self.apps.values()],
            "consents": [asdict(item) for item in self.consents.values()],
            "role_grants": [asdict(item) for item in self.role_grants.values()],
            "principals": list(self.principals),
            "sent": list(self.sent),
            "clock_offset": self.clock_offset,
            "token_lifetime": self.token_lifetime,
            "consent_lie": self.consent_lie,
        }

    def load(self, data: dict[str, Any]) -> None:
        """Restore the state from ``as_json`` and the keys."""
        self.clear()
        self.directories = {values["id"]: Directory(**values) for values in data["directories"]}
        self.people = {values["id"]: Person(**values) for values in data["people"]}
        self.mailboxes = {values["address"]: SharedMailbox(**values) for values in data["mailboxes"]}
        for values in data["apps"]:
            held = [Secret(**secret) for secret in values.pop("secrets")]
            certificates = [Certificate(**certificate) for certificate in values.pop("certificates")]
            federated = [FederatedCredential(**each) for each in values.pop("federated", [])]
            self.apps[values["client_id"]] = App(**values, secrets=held, certificates=certificates, federated=federated)
        for values in data["consents"]:
            self.consents[f"{values['client_id']}|{values['tenant']}|{values['person']}"] = Consent(**values)
        self.role_grants = {
            f"{values['client_id']}|{values['tenant']}": RoleGrant(**values) for values in data["role_grants"]
        }
        self.principals = data["principals"]
        self.sent = data["sent"]
        self.clock_offset = data["clock_offset"]
        self.token_lifetime = data["token_lifetime"]
        self.consent_lie = data["consent_lie"]
        if "keys" in data:
            self.use_keys(**data["keys"])

    def _write(self, path: Path) -> None:
        # mkstemp makes the file readable only by its owner. This is important because it contains the signing key.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({**self.as_json(), "keys": self.keys}, file)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


_world: World | None = None


def use(world: World) -> None:
    """Set the World that world() returns in this process."""
    global _world
    _world = world


def world() -> World:
    if _world is None:
        raise RuntimeError("The sandbox has no world yet: start it with python -m portal.sandbox.")
    return _world
