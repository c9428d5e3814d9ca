"""App registrations: register, change, remove. How they stand at Microsoft is in services/standing.py."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import IntegrityError, transaction
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
    """Try the first credential at Microsoft, then register the application together with it.

    Raises InvalidInput, AlreadyExists, MicrosoftRefused (nothing is stored; ``field`` says where it belongs) or
    MicrosoftUnavailable. ``allow_untried`` stores it as not tried yet when Microsoft cannot be asked, or when the
    application only still has to be installed in the directory by admin consent.
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
    accepted = credential is not None and _accepts(app, credential, allow_untried=allow_untried)
    now = timezone.now()
    try:
        with transaction.atomic():
            app.verified_at = now if accepted else None
            app.save()
            facts = {"tenant": str(tenant), "client_id": app.client_id, "audience": audience, "accepted": accepted}
            audit.record(AuditAction.APP_REGISTRATION_ADDED, app, actor=actor, changes=facts)
            if credential is not None:
                credentials.store(app, credential, actor=actor, verified_at=app.verified_at)
    except IntegrityError as taken:
        raise _duplicate(app) from taken
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
    """Change everything but the identity (tenant and client ID). Raises InvalidInput, AlreadyExists, StillInUse.

    An authentication type cannot be switched off while connections use it.
    """
    values = {
        "name": name,
        "audience": audience,
        "allows_delegated": allows_delegated,
        "allows_app_only": allows_app_only,
        "default_capabilities": list(default_capabilities),
    }
    changes = audit.changed_fields(app_registration, values)
    if not changes:
        return
    before = {field: getattr(app_registration, field) for field in values}
    for field, value in values.items():
        setattr(app_registration, field, value)
    try:
        _check(app_registration)
        _check_types_in_use(app_registration)
        with transaction.atomic():
            app_registration.save(update_fields=list(changes))
            audit.record(AuditAction.APP_REGISTRATION_CHANGED, app_registration, actor=actor, changes=changes)
    except (InvalidInput, InUse):
        _restore(app_registration, before)
        raise
    except IntegrityError as taken:
        error = _duplicate(app_registration)
        _restore(app_registration, before)
        raise error from taken


def remove(app_registration: AppRegistration, *, actor: User | None) -> None:
    """Forget the registration and its credentials. Raises StillInUse while it has connections."""
    with transaction.atomic():
        names = list(app_registration.connections.values_list("name", flat=True)[:4])
        if names:
            raise InUse(
                f"{app_registration} still has connections: {_listed(names)}.", action="Remove or move them first."
            )
        audit.record(AuditAction.APP_REGISTRATION_REMOVED, app_registration, actor=actor)
        app_registration.delete()


# --- Rules ----------------------------------------------------------------------------------------


def _check(app_registration: AppRegistration) -> None:
    """Refuse what cannot work at Microsoft, and duplicates."""
    if not (app_registration.allows_delegated or app_registration.allows_app_only):
        raise InvalidInput("Allow delegated connections, app-only connections, or both.", field="allows_delegated")
    tenant = app_registration.tenant
    if tenant.is_shared_endpoint:
        if app_registration.allows_app_only:
            # No person signs in, so nothing names a directory (AADSTS50059, 900023).
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
    others = AppRegistration.objects.exclude(pk=app_registration.pk)
    if (
        others.filter(name=app_registration.name).exists()
        or others.filter(tenant=tenant, client_id=app_registration.client_id).exists()
    ):
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
                f"This kind is still used by {_listed(names)}.", action="Remove those connections first.", field=field
            )


def _accepts(app_registration: AppRegistration, new: credentials.NewCredential, *, allow_untried: bool) -> bool:
    try:
        return credentials.is_accepted(app_registration, new, allow_untried=allow_untried)
    except MicrosoftRefused as error:
        # Not installed yet: only admin consent can change that, and the portal's consent link needs a stored row.
        if allow_untried and can_be_saved_untested(error):
            return False
        raise


def can_be_saved_untested(error: MicrosoftRefused) -> bool:
    """Whether saving without an accepted credential makes sense after this answer of Microsoft."""
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


def _restore(app_registration: AppRegistration, before: dict[str, object]) -> None:
    for field, value in before.items():
        setattr(app_registration, field, value)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
