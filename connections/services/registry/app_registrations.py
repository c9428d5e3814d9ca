"""Register, change and remove app registrations. credential_checks.py tests whether Microsoft accepts them."""

import copy
from collections.abc import Sequence

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from connections import audit
from connections.errors import AlreadyExists, InUse, InvalidInput, MicrosoftRefused
from connections.microsoft import credential_probe
from connections.models import AppRegistration, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.models.columns import set_columns
from connections.services.policy import evaluate, four_eyes, loosening
from connections.services.policy.rules import Rules
from connections.services.registry import app_consents, credentials
from connections.uniqueness import atomic_or


def register(
    tenant: Tenant,
    *,
    name: str,
    client_id: str,
    actor: User | None,
    audience: str = AppRegistration.Audience.SINGLE,
    allows_delegated: bool = True,
    allows_app_only: bool = False,
    default_capabilities: Sequence[str] = (),
    object_id: str = "",
    renews_credentials: bool = False,
    credential: credentials.NewCredential | None = None,
    allow_untried: bool = False,
    accepted: bool | None = None,
    is_personal: bool = False,
) -> AppRegistration:
    """Test the first credential at Microsoft, then store the app registration together with it.

    ``allow_untried`` stores it untested if Microsoft is unavailable, or if only admin consent is missing in the
    directory. If the caller has already tested the credential, ``accepted`` is the result. With ``is_personal``, only
    ``actor`` can connect through the app registration.

    Raises InvalidInput, AlreadyExists, MicrosoftUnavailable or MicrosoftRefused (with the form's ``field``), without
    storing anything.
    """
    app = AppRegistration(
        tenant=tenant,
        environment=tenant.environment,
        name=name,
        client_id=client_id.lower(),
        audience=audience,
        allows_delegated=allows_delegated,
        allows_app_only=allows_app_only,
        default_capabilities=list(default_capabilities),
        object_id=object_id.lower(),
        renews_credentials=renews_credentials,
        created_by=actor,
        is_personal=is_personal,
    )
    _check(app)
    if accepted is None:
        accepted = credential is not None and _is_accepted(app, credential, allow_untried)
    app.verified_at = timezone.now() if accepted else None
    with atomic_or(lambda: _duplicate(app)):
        app.save()
        app_consents.ensure(app, tenant, actor=actor)
        changes = {"tenant": str(tenant), "client_id": app.client_id, "audience": audience, "accepted": accepted}
        audit.record(AuditAction.APP_REGISTRATION_ADDED, app, actor=actor, changes=changes)
        if credential is not None:
            credentials.store(app, credential, actor=actor, verified_at=app.verified_at)
    return app


def _is_accepted(app: AppRegistration, credential: credentials.NewCredential, allow_untried: bool) -> bool:
    try:
        return credentials.is_accepted(app, credential, allow_untried=allow_untried)
    except MicrosoftRefused as error:
        # If only admin consent is missing, store it anyway, because the portal's consent link needs the row.
        if not allow_untried or not can_be_saved_untested(error):
            raise
        return False


def change(
    app_registration: AppRegistration,
    *,
    name: str,
    audience: str,
    allows_delegated: bool,
    allows_app_only: bool,
    default_capabilities: Sequence[str],
    actor: User | None,
    is_personal: bool | None = None,
    object_id: str | None = None,
    renews_credentials: bool | None = None,
) -> None:
    """Change everything except tenant and client ID. None leaves a value as it is.

    With ``is_personal``, only the member who added it can connect through it. Raises InvalidInput, AlreadyExists, or
    InUse if connections use a type that the change would remove, or if the application would become single-tenant
    although other tenants use it.
    """
    values: dict[str, object] = {
        "name": name,
        "audience": audience,
        "allows_delegated": allows_delegated,
        "allows_app_only": allows_app_only,
        "default_capabilities": list(default_capabilities),
        "is_personal": app_registration.is_personal if is_personal is None else is_personal,
        **({} if object_id is None else {"object_id": object_id.lower()}),
        **({} if renews_credentials is None else {"renews_credentials": renews_credentials}),
    }
    changes = audit.changed_fields(app_registration, values)
    if not changes:
        return
    new = copy.copy(app_registration)
    set_columns(new, values)
    _check(new)
    _check_types_in_use(new)
    _check_tenants_in_use(new)
    with atomic_or(lambda: _duplicate(new)):
        new.save(update_fields=list(changes))
        audit.record(AuditAction.APP_REGISTRATION_CHANGED, new, actor=actor, changes=changes)
    set_columns(app_registration, values)


def remove(app_registration: AppRegistration, *, actor: User | None) -> None:
    """Delete the app registration with its credentials and its policy.

    Raises InUse while it has connections, or SecondPersonNeeded if deleting its policy would loosen the rules.
    """
    with transaction.atomic():
        names = list(app_registration.connections.values_list("name", flat=True)[:4])
        if names:
            in_use = f"{app_registration} still has connections: {_join(names)}."
            raise InUse(in_use, action="Remove or move them first.")
        if actor is not None:
            own = evaluate.load_policies().apps.get(app_registration.pk, Rules())
            change = loosening.needs_second_admin(app_registration, own, Rules())
            four_eyes.require(change, actor=actor, now=timezone.now())
        audit.record(AuditAction.APP_REGISTRATION_REMOVED, app_registration, actor=actor)
        app_registration.delete()


def _check(app_registration: AppRegistration) -> None:
    """Raise AlreadyExists for duplicates, or InvalidInput for settings that Microsoft could never accept."""
    check_settings(app_registration)
    environment = app_registration.tenant.environment
    same = Q(name=app_registration.name) | Q(environment=environment, client_id=app_registration.client_id)
    if AppRegistration.objects.exclude(pk=app_registration.pk).filter(same).exists():
        raise _duplicate(app_registration)


def check_settings(app_registration: AppRegistration) -> None:
    """Raise InvalidInput for settings that Microsoft could never accept. App registration and tenant may be unsaved."""
    if not (app_registration.allows_delegated or app_registration.allows_app_only):
        raise InvalidInput("Allow delegated connections, app-only connections, or both.", field="allows_delegated")
    tenant = app_registration.tenant
    if tenant.is_shared_endpoint:
        if app_registration.allows_app_only:
            # Without a person signing in, the directory is unknown (AADSTS50059, 900023).
            raise InvalidInput(
                f"App-only connections aren't possible with “{tenant.directory_id}”, because it isn't a specific "
                "directory.",
                action="Choose a tenant with a specific directory ID, or only allow delegated connections.",
                field="allows_app_only",
            )
        if app_registration.audience != AppRegistration.Audience.MULTI:
            raise InvalidInput(
                f"Single-tenant applications can't use “{tenant.directory_id}” (AADSTS50194).",
                action="Choose the application's own tenant, or make it multitenant in Entra and here.",
                field="audience",
            )


def _check_tenants_in_use(app_registration: AppRegistration) -> None:
    """Raise InUse if the application would become single-tenant although other tenants use it."""
    others = app_registration.consents.exclude(tenant=app_registration.tenant_id).select_related("tenant")
    names = [consent.tenant.name for consent in others[:4]]
    if names and not app_registration.is_multitenant:
        raise InUse(
            f"Other tenants use this app registration: {_join(names)}.", action="Remove them first.", field="audience"
        )


def _check_types_in_use(app_registration: AppRegistration) -> None:
    for kind, field in (
        (AuthenticationType.AUTHORIZATION_CODE, "allows_delegated"),
        (AuthenticationType.CLIENT_CREDENTIALS, "allows_app_only"),
    ):
        if app_registration.allows(kind):
            continue
        names = list(app_registration.connections.filter(authentication_type=kind).values_list("name", flat=True)[:4])
        if names:
            raise InUse(
                f"This connection type is still used by {_join(names)}.",
                action="Remove those connections first.",
                field=field,
            )


def can_be_saved_untested(error: MicrosoftRefused) -> bool:
    """Whether the app registration can be saved although Microsoft did not accept its credential.

    That is the case if Microsoft was unavailable, or if only admin consent is missing.
    """
    return error.status == 503 or error.verdict.code == credential_probe.NEEDS_CONSENT


def _duplicate(app_registration: AppRegistration) -> AlreadyExists:
    others = AppRegistration.objects.exclude(pk=app_registration.pk)
    environment = app_registration.tenant.environment
    same = others.filter(environment=environment, client_id=app_registration.client_id).first()
    if same is not None:
        other_tenant = same.tenant_id != app_registration.tenant_id
        return AlreadyExists(
            f"This application is already registered as {same}.",
            action="Add the tenant there instead." if other_tenant else "Add a credential there instead.",
            field="client_id",
        )
    return AlreadyExists("Another app registration has this name.", action="Choose another name.", field="name")


def _join(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
