"""Connect through an app registration that is not in the portal yet. Both are stored together, or neither is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Q

from connections.access import permissions, roles
from connections.errors import AlreadyExists, InvalidInput, MicrosoftRefused, PolicyForbids
from connections.microsoft import capabilities, resources, token_endpoint
from connections.models import AppCredential, AppRegistration, Connection, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections, directories
from connections.services.policy import evaluate
from connections.services.registry import app_registrations, credential_checks, credentials, tenants
from connections.validators import NAME_LENGTH


@dataclass(frozen=True, slots=True)
class NewApp:
    """An app registration as it was entered. ``connect`` fills in empty names."""

    environment: str
    directory_id: str
    client_id: str
    audience: str
    credential: credentials.NewCredential
    name: str = ""
    tenant_name: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The requested connection. ``addresses`` are shared mailboxes, which are registered if they are not in the portal."""

    authentication_type: AuthenticationType
    name: str
    chosen: Sequence[str]
    extra_scopes: Sequence[str] = ()
    hosts: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    reason: str = ""


def may_bring_app(user: User) -> bool:
    """Whether the user may add an app registration while connecting: IT admins, and members if the policy allows it."""
    return permissions.can_bring_app(user, members_may=evaluate.load_policies().organisation.member_apps)


def connect(new: NewApp, options: ConnectionOptions, *, actor: User, now: datetime) -> Connection:
    """Test the credential at Microsoft, then store tenant, app registration and connection in one transaction.

    Returns a delegated connection that waits for its sign-in, or an app-only one with its token (pending if the policy
    requires an approval). Raises NotAllowed, PolicyForbids, InvalidInput, AlreadyExists, MicrosoftRefused (with the
    form's ``field``) or MicrosoftUnavailable, without storing anything.
    """
    is_app_only = options.authentication_type == AuthenticationType.CLIENT_CREDENTIALS
    _require_allowed(actor, is_app_only)
    _require_provable(new, actor, is_app_only)
    tenant = _find_tenant(new) or _look_up_tenant(new)
    _require_known_directory(tenant, actor)
    app = _application(new, tenant, is_app_only)
    app_registrations.check_settings(app)
    answer = _test(app, new, options, now)
    with transaction.atomic():
        app = _store_app(app, new, actor)
        values: dict[str, Any] = {
            "name": options.name,
            "chosen": options.chosen,
            "extra_scopes": options.extra_scopes,
            "hosts": options.hosts,
            "reason": options.reason,
            **directories.mailbox_options(app.tenant, options.addresses, actor=actor),
        }
        if answer is None:
            return connections.start_delegated(app, **values, actor=actor, now=now)
        connection = app_only.connect_with(app, answer, **values, actor=actor, now=now)
    return app_only.settle(connection, answer, actor=actor, now=now)


def _require_allowed(actor: User, is_app_only: bool) -> None:
    roles.require(
        may_bring_app(actor),
        cause="Only IT admins can add app registrations.",
        action="Choose an app registration, or ask an IT admin to add yours.",
    )
    roles.require(
        not is_app_only or permissions.can_connect_app_only(actor),
        cause="App-only connections cover the whole tenant.",
        action="Ask an IT admin to create it.",
    )


def _require_provable(new: NewApp, actor: User, is_app_only: bool) -> None:
    """Raise InvalidInput for a federated credential, unless an IT admin adds it for delegated connections.

    Unlike a secret or certificate, it does not prove yet that the person controls the application.
    """
    if not isinstance(new.credential, credentials.NewFederated):
        return
    is_own = new.credential.source == AppCredential.Source.PORTAL
    if is_app_only or not is_own or not permissions.can_manage_registry(actor):
        raise InvalidInput("Enter a client secret or upload a certificate.", field="credential")


def _require_known_directory(tenant: Tenant, actor: User) -> None:
    """Raise PolicyForbids if a member would register a directory although the policy allows only registered ones."""
    if tenant.pk or permissions.can_manage_registry(actor):
        return
    if not evaluate.load_policies().organisation.other_tenants:
        cause = "Your policy allows only accounts of registered directories."
        raise PolicyForbids(cause, action="Ask an IT admin to register this tenant.", field="directory_id")


def _find_tenant(new: NewApp) -> Tenant | None:
    directory = new.directory_id.lower()
    same = Q(directory_id=directory) | Q(tid=directory)
    return Tenant.objects.filter(same, environment=new.environment).first()


def _look_up_tenant(new: NewApp) -> Tenant:
    """Return an unsaved tenant for the directory, or the existing one if it was registered by another of its names."""
    directory = new.directory_id.lower()
    tid = tenants.look_up_directory(new.environment, directory)
    known = Tenant.objects.filter(environment=new.environment, tid=tid).first() if tid else None
    name = (new.tenant_name or directory)[:NAME_LENGTH]
    return known or Tenant(name=name, environment=new.environment, directory_id=directory, tid=tid)


def _application(new: NewApp, tenant: Tenant, is_app_only: bool) -> AppRegistration:
    """Return the unsaved app registration. It allows only the type of connection that is created with it."""
    return AppRegistration(
        tenant=tenant,
        environment=tenant.environment,
        name=new.name or f"{tenant.name[: NAME_LENGTH - 9]} {new.client_id[:8]}",
        client_id=new.client_id.lower(),
        audience=new.audience,
        allows_delegated=not is_app_only,
        allows_app_only=is_app_only,
    )


def _test(
    app: AppRegistration, new: NewApp, options: ConnectionOptions, now: datetime
) -> token_endpoint.TokenSet | None:
    """Test the credential at Microsoft. For an app-only connection, return the token that the test got.

    A federated credential is not tested yet, because Entra's trust in it needs the stored row.
    """
    credentials.check_possible(new.credential, app.tenant)
    if isinstance(new.credential, credentials.NewFederated):
        return None
    if options.authentication_type != AuthenticationType.CLIENT_CREDENTIALS:
        credentials.is_accepted(app, new.credential, allow_untried=False)
        return None
    application = credential_checks.build_application(app, credentials.to_present(new.credential))
    resource = resources.main(capabilities.application_roles(options.chosen, options.extra_scopes))
    audience = resources.audience(application.cloud, resource, options.hosts)
    try:
        return token_endpoint.request_app_only_token(application, audience=audience)
    except MicrosoftRefused as error:
        raise credential_checks.refusal_error(error.verdict) from error


def _store_app(app: AppRegistration, new: NewApp, actor: User) -> AppRegistration:
    tenant = app.tenant
    if not tenant.pk:
        with _names_field("tenant_name"):
            tenant = tenants.add(
                tenant.name,
                environment=tenant.environment,
                directory_id=tenant.directory_id,
                actor=actor,
                tid=tenant.tid,
            )
    with _names_field("app_name"):
        return app_registrations.register(
            tenant,
            name=app.name,
            client_id=app.client_id,
            actor=actor,
            audience=app.audience,
            allows_delegated=app.allows_delegated,
            allows_app_only=app.allows_app_only,
            credential=new.credential,
            accepted=not isinstance(new.credential, credentials.NewFederated),
            is_personal=not permissions.can_manage_registry(actor),
        )


@contextmanager
def _names_field(field: str) -> Iterator[None]:
    """Report a name that is already taken on the form's ``field``, because the form has three name fields."""
    try:
        yield
    except AlreadyExists as error:
        if error.field == "name":
            error.field = field
        raise
