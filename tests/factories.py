"""People and objects for tests. Every helper has good defaults; ``overrides`` are column values.

alice is an IT admin, bob a member who owns connections, carol an auditor, and dave a stranger: a member who owns
nothing. Where bob's connection is shared, una may use it, max may manage it, tina's team has access, and eve's share
expired yesterday.
"""

from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.contrib.auth.models import Group
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from connections.models import (
    AccessReview,
    ApiKey,
    AppConsent,
    AppCredential,
    AppRegistration,
    Connection,
    ConsentRequest,
    MailboxAccess,
    ReviewItem,
    Share,
    SharedMailbox,
    Tenant,
    User,
)
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.app_registrations import AuthenticationType
from connections.services.api_keys import api_keys
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests import browser_sessions

PASSWORD = "correct horse battery staple"
Row = TypeVar("Row", bound=Model)

# The sandbox's initial state; the defaults below match it, so these objects work there at once.
DIRECTORY_ID = seed.CONTOSO
CLIENT_ID = seed.CONNECTIONS_APP
CLIENT_SECRET = seed.CONNECTIONS_SECRET
ROBOTS_CLIENT_ID = seed.ROBOTS_APP
ROBOTS_CLIENT_SECRET = seed.ROBOTS_SECRET
MICROSOFT_SIGN_IN = {
    "environment": "sandbox",
    "tenant": seed.CONTOSO,
    "client_id": seed.SIGN_IN_APP,
    "client_secret": seed.SIGN_IN_SECRET,
    "admins": ["ITAdmin"],
    "auditors": ["Auditor"],
}
ADA = "ada@contoso.example"
ADA_ID = seed.fixed_id(ADA)

_ROLES = {"alice": IT_ADMINS, "carol": AUDITORS}
_NAMES = {
    "alice": "Alice Admin",
    "bob": "Bob Member",
    "carol": "Carol Auditor",
    "dave": "Dave Stranger",
    "una": "Una User",
    "max": "Max Manager",
    "tina": "Tina Teammate",
    "eve": "Eve Expired",
}


def make_person(username: str, **overrides: Any) -> User:
    """Create a person who can sign in with PASSWORD; alice and carol get their role."""
    first, _, last = _NAMES.get(username, username.title()).partition(" ")
    values = {"email": f"{username}@example.org", "first_name": first, "last_name": last, "password": PASSWORD}
    user = User.objects.create_user(username, **(values | overrides))
    if username in _ROLES:
        user.groups.add(Group.objects.get_or_create(name=_ROLES[username])[0])
    return user


def signed_in(user: User) -> Client:
    """Return a browser in which ``user`` has signed in."""
    client = Client()
    browser_sessions.sign_in(client, user)
    return client


def make_service_account(name: str = "Invoice robots", **overrides: Any) -> User:
    """Create a service account without a role, for which nobody is responsible."""
    values = {"first_name": name, "kind": User.Kind.SERVICE, "purpose": "Reads invoices.", "password": "!"}
    return User.objects.create(username=f"service:{name.lower().replace(' ', '-')}", **(values | overrides))


def make_tenant(**overrides: Any) -> Tenant:
    """Create the sandbox's Contoso."""
    values = {"name": "Contoso", "environment": "sandbox", "directory_id": DIRECTORY_ID, "tid": DIRECTORY_ID}
    return Tenant.objects.create(**(values | overrides))


def make_app_registration(*, secret: str | None = CLIENT_SECRET, **overrides: Any) -> AppRegistration:
    """Create a verified registration of the sandbox's "Contoso Connections" with its secret (None for no credential)."""
    values: dict[str, Any] = {
        "name": "Contoso Connections",
        "client_id": CLIENT_ID,
        "allows_delegated": True,
        "allows_app_only": True,
        "verified_at": timezone.now(),
    }
    values |= overrides
    if "tenant" not in values:
        values["tenant"] = Tenant.objects.filter(name="Contoso").first() or make_tenant()
    values.setdefault("environment", values["tenant"].environment)
    app = AppRegistration.objects.create(**values)
    make_consent(app)
    if secret is not None:
        make_secret(app, secret)
    return app


def make_consent(app: AppRegistration, tenant: Tenant | None = None, **overrides: Any) -> AppConsent:
    """Let ``app`` be used in ``tenant`` (its home tenant), where Microsoft has issued a token."""
    values: dict[str, Any] = {"seen_at": timezone.now()} | overrides
    return AppConsent.objects.create(app_registration=app, tenant=tenant or app.tenant, **values)


def make_secret(app: AppRegistration, secret: str = CLIENT_SECRET, **overrides: Any) -> AppCredential:
    """Create a client secret of ``app`` that expires in a year."""
    values: dict[str, Any] = {
        "kind": AppCredential.Kind.SECRET,
        "label": "Test secret",
        "secret": secret,
        "hint": secret[:3],
        "expires_at": timezone.now() + timedelta(days=365),
        "verified_at": timezone.now(),
    }
    return AppCredential.objects.create(app_registration=app, **(values | overrides))


def make_connection(**overrides: Any) -> Connection:
    """Create an active delegated connection of bob's, with tokens, not due for a refresh.

    Its tokens are fictitious: pass ``refresh_token=`` (see ``sandbox.issue_grant``) for requests to Microsoft.
    """
    now = overrides.get("connected_at") or timezone.now()
    values: dict[str, Any] = {
        "name": "Invoices",
        "authentication_type": AuthenticationType.AUTHORIZATION_CODE,
        "status": Connection.Status.ACTIVE,
        "capabilities": ["mail.read"],
        "scopes": "Mail.Read offline_access",
        "granted_scopes": "Mail.Read openid profile email",
        "account_tid": DIRECTORY_ID,
        "account_oid": ADA_ID,
        "account_username": ADA,
        "account_name": "Ada Lovelace",
        "refresh_token": "1.AFictitiousRefreshToken-only-for-tests",
        "access_token": "eyJ0eXAiOiJKV1Qi.fictitious.access-token",
        "token_version": 1,
    }
    return _connection(now, values | overrides)


def make_granted_connection(sandbox: Control, upn: str = ADA, **overrides: Any) -> Connection:
    """Call make_connection() with a refresh token of ``upn`` that the sandbox accepts."""
    grant = sandbox.issue_grant(CLIENT_ID, upn, ["Mail.Read", "offline_access"])
    return make_connection(**({"refresh_token": grant["refresh_tokens"][0]} | overrides))


def make_multitenant_app(**overrides: Any) -> AppRegistration:
    """Create the sandbox's multitenant app registration, for delegated connections to accounts of any directory."""
    tenant = make_tenant(**({"name": "Anybody", "directory_id": "organizations", "tid": ""} | overrides))
    return make_app_registration(
        tenant=tenant, client_id=seed.MULTI_APP, secret=seed.MULTI_SECRET, audience="multi", allows_app_only=False
    )


def make_app_only_connection(**overrides: Any) -> Connection:
    """Create an active app-only connection of alice's, with an access token, not due for a refresh."""
    now = overrides.get("connected_at") or timezone.now()
    values: dict[str, Any] = {
        "name": "Nightly robot",
        "authentication_type": AuthenticationType.CLIENT_CREDENTIALS,
        "status": Connection.Status.ACTIVE,
        "capabilities": ["mail.read"],
        "scopes": "Mail.Read User.Read.All",
        "granted_scopes": "Mail.Read User.Read.All",
        "access_token": "eyJ0eXAiOiJKV1Qi.fictitious.app-only-token",
        "token_version": 1,
    }
    if "owner" not in overrides:
        values["owner"] = User.objects.filter(username="alice").first() or make_person("alice")
    return _connection(now, values | overrides)


def _connection(now: datetime, values: dict[str, Any]) -> Connection:
    if "app_registration" not in values:
        values["app_registration"] = AppRegistration.objects.first() or make_app_registration()
    app = values["app_registration"]
    tenant = values.setdefault("tenant", app.tenant)
    values.setdefault("app_consent", app.consents.filter(tenant=tenant).first() or make_consent(app, tenant))
    if "owner" not in values:
        values["owner"] = User.objects.filter(username="bob").first() or make_person("bob")
    times = {
        "connected_at": now,
        "refreshed_at": now,
        "checked_at": now,
        "status_since": now,
        "expires_at": now + timedelta(minutes=75),
        "refresh_after": now + timedelta(minutes=50),
    }
    return Connection.objects.create(**(times | values))


def make_mailbox(**overrides: Any) -> SharedMailbox:
    """Create the sandbox's support@contoso.example, which Ada may open."""
    values: dict[str, Any] = {"address": "support@contoso.example", "display_name": "Support"}
    values |= overrides
    if "tenant" not in values:
        values["tenant"] = Tenant.objects.filter(name="Contoso").first() or make_tenant()
    return SharedMailbox.objects.create(**values)


def make_mailbox_access(connection: Connection, mailbox: SharedMailbox, **overrides: Any) -> MailboxAccess:
    """Attach ``mailbox`` to ``connection``, without testing access."""
    return MailboxAccess.objects.create(connection=connection, mailbox=mailbox, **overrides)


def make_key(owner: User, **overrides: Any) -> tuple[ApiKey, str]:
    """Create an API key with every scope; returns it and its text. It was just used, so using it writes nothing."""
    text, prefix = api_keys.generate_key()
    values: dict[str, Any] = {
        "name": f"Key of {owner.username}",
        "prefix": prefix,
        "digest": api_keys.digest(text),
        "scopes": list(ApiKey.Scope),
        "last_used_at": timezone.now(),
        "last_used_from": "127.0.0.1",
    }
    return ApiKey.objects.create(owner=owner, **(values | overrides)), text


def make_consent_request(connection: Connection, **overrides: Any) -> ConsentRequest:
    """Create an undecided request by the connection's owner for Mail.Read."""
    values: dict[str, Any] = {
        "connection": connection,
        "connection_name": connection.name,
        "app_registration": connection.app_registration,
        "directory_id": DIRECTORY_ID,
        "authentication_type": connection.authentication_type,
        "capabilities": ["mail.read"],
        "permissions": "Mail.Read",
        "reason": "Invoices arrive there.",
        "requester": connection.owner,
        "requester_name": str(connection.owner),
    }
    return ConsentRequest.objects.create(**(values | overrides))


def make_review(*shares: Share, **overrides: Any) -> AccessReview:
    """Create a running review of ``shares`` without decisions."""
    now = timezone.now()
    values: dict[str, Any] = {
        "name": "Review Q4",
        "scope_name": "All shares",
        "started_at": now,
        "started_by_name": "Alice Admin <alice>",
        "due_at": now + timedelta(days=21),
    }
    review = AccessReview.objects.create(**(values | overrides))
    for share in shares:
        ReviewItem.objects.create(
            review=review,
            share=share,
            connection=share.connection,
            connection_name=share.connection.name,
            app_name=share.connection.app_registration.name,
            owner=share.connection.owner,
            owner_name=f"{share.connection.owner} <{share.connection.owner.username}>",
            is_team=share.team is not None,
            with_name=share.team.name if share.team else f"{share.person} <{share.person.username}>",  # type: ignore[union-attr]
            level=share.level,
            until=share.until,
            given_at=share.created_at,
        )
    return review


def reloaded(row: Row) -> Row:
    """Return ``row`` itself, with its columns read from the database again."""
    row.refresh_from_db()
    return row
