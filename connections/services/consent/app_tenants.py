"""Add an app registration to another tenant: register the directory if needed, and request consent there."""

from connections.access import permissions, roles
from connections.models import AppConsent, AppRegistration, Tenant, User
from connections.services.consent import admin_consent
from connections.services.registry import app_consents, tenants


def add(app_registration: AppRegistration, *, directory_id: str, name: str = "", actor: User) -> tuple[AppConsent, str]:
    """Let connections use the app registration in this directory. Returns its consent there and the URL to grant it.

    A directory that is not a tenant yet is looked up at Microsoft and registered as ``name`` (default: its ID). Safe to
    repeat. Raises NotAllowed, InvalidInput, AlreadyExists or MicrosoftUnavailable.
    """
    roles.require(permissions.can_manage_registry(actor), action="Ask an IT admin.")
    directory_id = directory_id.strip().lower()
    tenant = _find(app_registration.environment, directory_id)
    if tenant is None:
        # Check this first, so that no tenant is registered in vain.
        unsaved = Tenant(name=name, environment=app_registration.environment, directory_id=directory_id)
        app_consents.require_possible(app_registration, unsaved)
        tid = tenants.look_up_directory(app_registration.environment, directory_id)
        tenant = _find(app_registration.environment, tid)
        tenant = tenant or tenants.add(
            name or directory_id,
            environment=app_registration.environment,
            directory_id=directory_id,
            tid=tid,
            actor=actor,
        )
    consent = app_consents.add(app_registration, tenant, actor=actor)
    _, url = admin_consent.start(app_registration, directory_id=tenant.authority_id, actor=actor)
    return consent, url


def _find(environment: str, directory_id: str) -> Tenant | None:
    in_environment = Tenant.objects.filter(environment=environment)
    return in_environment.filter(directory_id=directory_id).first() or in_environment.filter(tid=directory_id).first()
