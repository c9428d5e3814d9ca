"""Register, change and remove app registrations. credential_checks.py tests whether Microsoft accepts them."""

import copy
from collections.abc import Sequence

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from connections import audit
from connections.errors import AlreadyExists, InUse, InvalidInput, MicrosoftRefused
from connections.microsoft import credential_probe
from connections.models import AppRegistration, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.models.audit import AuditAction
from connections.services.registry import credentials


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
    credential: credentials.NewCredential | None = None,
    allow_untried: bool = False,
) -> AppRegistration:
    """Test the first credential at Microsoft, then store the app registration together with it.

    ``allow_untried`` stores it untested if Microsoft is unavailable or only admin consent is missing in the directory.
    Raises InvalidInput, AlreadyExists, MicrosoftUnavailable or MicrosoftRefused (with the form's ``field``) and stores
    nothing.
    """
    app = AppRegistration(
        tenant=tenant,
        name=name,
        client_id=client_id.lower(),
        audience=audience,
        allows_delegated=allows_delegated,
        allows_app_only=allows_app_only,
        default_capabilities=list(default_capabilities),
        created_by=actor,
    )
    _check(app)
    accepted = False
    if credential is not None:
        try:
            accepted = credentials.is_accepted(app, credential, allow_untried=allow_untried)
        except MicrosoftRefused as error:
            # If only admin consent is missing, it is stored anyway, because the portal's consent link needs the row.
            if not allow_untried or not can_be_saved_untested(error):
                raise
    app.verified_at = timezone.now() if accepted else None
    try:
        with transaction.atomic():
            app.save()
            changes = {"tenant": str(tenant), "client_id": app.client_id, "audience": audience, "accepted": accepted}
            audit.record(AuditAction.APP_REGISTRATION_ADDED, app, actor=actor, changes=changes)
            if credential is not None:
                credentials.store(app, credential, actor=actor, verified_at=app.verified_at)
    except IntegrityError as error:
        raise _duplicate(app) from error
    return app


def change(
    app_registration: AppRegistration,
    *,
    name: str,
    audience: str,
    allows_delegated: bool,
    allows_app_only: bool,
    default_capabilities: Sequence[str],
    actor: User | None,
) -> None:
    """Change all but tenant and client ID. Raises InvalidInput, AlreadyExists, or InUse if a removed type is in use."""
    values: dict[str, object] = {
        "name": name,
        "audience": audience,
        "allows_delegated": allows_delegated,
        "allows_app_only": allows_app_only,
        "default_capabilities": list(default_capabilities),
    }
    changes = audit.changed_fields(app_registration, values)
    if not changes:
        return
    new = copy.copy(app_registration)
    _set(new, values)
    _check(new)
    _check_types_in_use(new)
    try:
        with transaction.atomic():
            new.save(update_fields=list(changes))
            audit.record(AuditAction.APP_REGISTRATION_CHANGED, new, actor=actor, changes=changes)
    except IntegrityError as error:
        raise _duplicate(new) from error
    _set(app_registration, values)


def remove(app_registration: AppRegistration, *, actor: User | None) -> None:
    """Delete the app registration and its credentials. Raises InUse while it has connections."""
    with transaction.atomic():
        names = list(app_registration.connections.values_list("name", flat=True)[:4])
        if names:
            in_use = f"{app_registration} still has connections: {_join(names)}."
            raise InUse(in_use, action="Remove or move them first.")
        audit.record(AuditAction.APP_REGISTRATION_REMOVED, app_registration, actor=actor)
        app_registration.delete()


def _check(app_registration: AppRegistration) -> None:
    """Reject duplicates and settings that Microsoft could never accept."""
    if not (app_registration.allows_delegated or app_registration.allows_app_only):
        raise InvalidInput("Allow delegated connections, app-only connections, or both.", field="allows_delegated")
    tenant = app_registration.tenant
    if tenant.is_shared_endpoint:
        if app_registration.allows_app_only:
            # Without a person signing in, the directory is unknown (AADSTS50059, 900023).
            raise InvalidInput(
                f"App-only connections are not possible through “{tenant.directory_id}”: without a person signing in, "
                "Microsoft cannot know which directory is meant.",
                action="Choose a tenant with its own directory ID, or allow delegated connections only.",
                field="allows_app_only",
            )
        if app_registration.audience != AppRegistration.Audience.MULTI:
            raise InvalidInput(
                f"A single-tenant application cannot be used through “{tenant.directory_id}” (AADSTS50194).",
                action="Choose the application's own tenant, or make it multitenant in Entra and here.",
                field="audience",
            )
    same = Q(name=app_registration.name) | Q(tenant=tenant, client_id=app_registration.client_id)
    if AppRegistration.objects.exclude(pk=app_registration.pk).filter(same).exists():
        raise _duplicate(app_registration)


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
                f"This kind is still used by {_join(names)}.", action="Remove those connections first.", field=field
            )


def can_be_saved_untested(error: MicrosoftRefused) -> bool:
    """Whether it makes sense to save the app registration although Microsoft refused its credential with ``error``."""
    return error.status == 503 or error.verdict.code == credential_probe.NEEDS_CONSENT


def _duplicate(app_registration: AppRegistration) -> AlreadyExists:
    others = AppRegistration.objects.exclude(pk=app_registration.pk)
    same = others.filter(tenant=app_registration.tenant, client_id=app_registration.client_id).first()
    if same is not None:
        return AlreadyExists(
            f"This application is registered for this tenant already, as {same}.",
            action="Add a credential there instead.",
            field="client_id",
        )
    return AlreadyExists(
        "Another app registration has this name.", action="Choose a name that tells them apart.", field="name"
    )


def _set(app_registration: AppRegistration, values: dict[str, object]) -> None:
    for field, value in values.items():
        setattr(app_registration, field, value)


def _join(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
