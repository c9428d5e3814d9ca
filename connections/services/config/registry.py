"""Plan tenants, app registrations and their credentials; see organisation.py for what a ``plan_…`` function does."""

import hmac
from functools import partial
from typing import Any

from connections.errors import InvalidInput, UnreadableSecret
from connections.microsoft import clouds, token_endpoint
from connections.models import AppCredential, AppRegistration, Tenant
from connections.services.config import steps
from connections.services.config.schema import AppEntry, Configuration, CredentialEntry, TenantEntry, WrongEntry
from connections.services.config.steps import CredentialTest, Plan, Step, StepContext, differences, removals
from connections.services.registry import app_consents, app_registrations, credential_checks, credentials, tenants


def plan_tenants(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.tenants is None:
        return []
    unnamed = {(tenant.environment, tenant.directory_id): tenant for tenant in Tenant.objects.all()}
    same = {entry: unnamed.pop(entry.directory, None) for entry in desired.tenants}
    for entry, existing in same.items():
        if existing is None:
            # If a tenant without an entry has this name, it has moved to another directory.
            moved = next((key for key, tenant in unnamed.items() if tenant.name == entry.name), None)
            existing = unnamed.pop(moved) if moved else None
        with plan.problems.noted():
            _plan_tenant(plan, entry, existing)
    return removals("tenant", unnamed.values(), lambda tenant, context: tenants.remove(tenant, actor=context.actor))


def _plan_tenant(plan: Plan, entry: TenantEntry, existing: Tenant | None) -> None:
    if existing is None or (existing.environment, existing.directory_id) != entry.directory:
        if entry.environment not in clouds.CLOUDS:
            known = f"Use one of {', '.join(clouds.CLOUDS)}."
            raise WrongEntry(f"The environment “{entry.environment}” doesn't exist.", action=known, line=entry.line)
        plan.lookups.append(entry)
    values = {"environment": entry.environment, "directory_id": entry.directory_id}
    run = partial(_save_tenant, existing, entry)
    if existing is None:
        plan.add("tenant", entry.name, values, entry.line, run)
    else:
        values = {"name": entry.name} | values
        changes = differences({name: getattr(existing, name) for name in values}, values)
        plan.change("tenant", existing.name, changes, entry.line, run)


def _save_tenant(tenant: Tenant | None, entry: TenantEntry, context: StepContext) -> None:
    values: dict[str, Any] = {"environment": entry.environment, "directory_id": entry.directory_id}
    values |= {"actor": context.actor, "tid": context.directories.get(entry.directory, "")}
    if tenant is None:
        tenants.add(entry.name, **values)
    else:
        tenants.change(tenant, name=entry.name, **values)


def find_tenant(desired: Configuration, name: str, line: int) -> Tenant:
    """Return the tenant that will have this name once the file is applied, unsaved if it is new. Raises WrongEntry."""
    for entry in desired.tenants or ():
        if entry.name == name:
            tenant = Tenant.objects.filter(environment=entry.environment, directory_id=entry.directory_id).first()
            return tenant or Tenant(name=name, environment=entry.environment, directory_id=entry.directory_id)
    tenant = Tenant.objects.filter(name=name).first()
    if tenant is None:
        raise WrongEntry(f"The tenant “{name}” is neither in the file nor in the portal.", line=line)
    return tenant


def plan_app_registrations(plan: Plan, desired: Configuration) -> list[Step]:
    if desired.app_registrations is None:
        return []
    unnamed = {app.pk: app for app in AppRegistration.objects.all()}
    unnamed_parts: list[Step] = []
    for entry in desired.app_registrations:
        with plan.problems.noted():
            existing = find_app_registration(desired, entry)
            if existing is not None:
                unnamed.pop(existing.pk, None)
            _plan_app(plan, entry, existing)
            unnamed_parts += _plan_other_tenants(plan, desired, entry, existing)
            unnamed_parts += _plan_credentials(plan, desired, entry, existing)
    return unnamed_parts + removals(
        "app registration", unnamed.values(), lambda app, context: app_registrations.remove(app, actor=context.actor)
    )


def find_app_registration(desired: Configuration, entry: AppEntry) -> AppRegistration | None:
    """Return the existing app registration with the entry's environment and client ID, whatever its name, or None.

    Raises WrongEntry if it is registered in another tenant.
    """
    tenant = find_tenant(desired, entry.tenant, entry.line)
    app = AppRegistration.objects.filter(environment=tenant.environment, client_id=entry.client_id).first()
    if app is not None and app.tenant_id != tenant.pk:
        raise WrongEntry(
            f"The app registration {app} is registered in the tenant {app.tenant}, which can't be changed.",
            action="List other tenants that use it under other_tenants.",
            line=entry.line,
        )
    return app


_APP_COLUMNS = (
    "audience",
    "allows_delegated",
    "allows_app_only",
    "default_capabilities",
    "object_id",
    "renews_credentials",
)


def _plan_app(plan: Plan, entry: AppEntry, existing: AppRegistration | None) -> None:
    values = steps.given_values(
        audience=entry.audience,
        allows_delegated=entry.allows_delegated,
        allows_app_only=entry.allows_app_only,
        default_capabilities=None if entry.default_capabilities is None else list(entry.default_capabilities),
        object_id=entry.object_id,
        renews_credentials=entry.renews_credentials,
    )
    if existing is None:
        facts = {"tenant": entry.tenant, "client_id": entry.client_id, **values}
        plan.add("app registration", entry.name, facts, entry.line, partial(_register_app, entry, values))
        return
    current: dict[str, Any] = {name: getattr(existing, name) for name in ("name", *_APP_COLUMNS)}
    values = current | values | {"name": entry.name}

    def run(context: StepContext) -> None:
        app_registrations.change(existing, **values, actor=context.actor)

    plan.change("app registration", existing.name, differences(current, values), entry.line, run)


def _register_app(entry: AppEntry, values: dict[str, Any], context: StepContext) -> None:
    tenant = Tenant.objects.get(name=entry.tenant)
    app_registrations.register(tenant, name=entry.name, client_id=entry.client_id, actor=context.actor, **values)


def _plan_other_tenants(
    plan: Plan, desired: Configuration, entry: AppEntry, existing: AppRegistration | None
) -> list[Step]:
    if entry.other_tenants is None:
        return []
    others = existing.consents.exclude(tenant=existing.tenant_id).select_related("tenant") if existing else ()
    unnamed = {consent.tenant.name: consent for consent in others}
    for name in entry.other_tenants:
        tenant = find_tenant(desired, name, entry.line)
        if unnamed.pop(tenant.name, None) is None:
            run = partial(_add_tenant, entry.name, name)
            plan.add("tenant of app registration", f"{name} for {entry.name}", {}, entry.line, run)
    return removals(
        "tenant of app registration",
        unnamed.values(),
        lambda consent, context: app_consents.remove(consent, actor=context.actor, now=context.now),
    )


def _add_tenant(app_name: str, tenant_name: str, context: StepContext) -> None:
    app, tenant = AppRegistration.objects.get(name=app_name), Tenant.objects.get(name=tenant_name)
    app_consents.add(app, tenant, actor=context.actor)


def _plan_credentials(
    plan: Plan, desired: Configuration, app_entry: AppEntry, existing: AppRegistration | None
) -> list[Step]:
    if app_entry.credentials is None:
        return []
    live = existing.credentials.live().defer("secret", "private_key") if existing else ()
    unnamed = {credential.pk: credential for credential in live}
    # Match the more exact entries first; those with only a label get what is left.
    for entry in sorted(app_entry.credentials, key=lambda entry: not (entry.value or entry.thumbprint)):
        same = next((credential for credential in unnamed.values() if _is_same(entry, credential)), None)
        if same is not None:
            del unnamed[same.pk]
        elif entry.value:
            _plan_secret(plan, desired, app_entry, entry)
        elif entry.source:
            _plan_federated(plan, desired, app_entry, entry)
        else:
            which = f"{entry.kind} {entry.label or entry.thumbprint[:8]}".strip()
            plan.notes.append(
                f"line {entry.line}: {app_entry.name} has no {which}. The file contains no "
                "secret for it: set secret_file or secret_env, or add it in the portal."
            )
    return removals(
        "credential", unnamed.values(), lambda credential, context: credentials.retire(credential, actor=context.actor)
    )


def _is_same(entry: CredentialEntry, credential: AppCredential) -> bool:
    """Whether the entry describes this credential.

    Compares the source, secret or thumbprint or, if the entry has none of these, the label.
    """
    if credential.kind != entry.kind:
        return False
    if entry.source:
        return credential.source == entry.source
    if not entry.value:
        return credential.thumbprint == entry.thumbprint if entry.thumbprint else credential.label == entry.label
    try:
        opened = credential_checks.decrypt_credential(credential)
    except UnreadableSecret:
        return False
    return isinstance(opened, token_endpoint.ClientSecret) and hmac.compare_digest(
        opened.value.encode(), entry.value.encode()
    )


def _plan_federated(plan: Plan, desired: Configuration, app_entry: AppEntry, entry: CredentialEntry) -> None:
    new = credentials.NewFederated(entry.source, entry.label)
    try:
        credentials.check_possible(new, find_tenant(desired, app_entry.tenant, app_entry.line))
    except InvalidInput as error:
        raise WrongEntry(error.cause, action=error.action, line=entry.line) from error
    plan.add(
        "credential",
        f"{entry.label or 'federated credential'} of {app_entry.name}",
        {"source": entry.source},
        entry.line,
        lambda context: credentials.add(
            AppRegistration.objects.get(name=app_entry.name), new, actor=context.actor, allow_untried=True
        ),
    )
    plan.notes.append(
        f"line {entry.line}: {app_entry.name} gets a new federated credential. Create it in Entra with the values on "
        "the app registration's page."
    )


def _plan_secret(plan: Plan, desired: Configuration, app_entry: AppEntry, entry: CredentialEntry) -> None:
    secret = credentials.NewSecret(entry.value, entry.expires_at, entry.label)
    tenant = find_tenant(desired, app_entry.tenant, app_entry.line)
    unsaved = AppRegistration(name=app_entry.name, tenant=tenant, client_id=app_entry.client_id)
    plan.trials.append(CredentialTest(find_app_registration(desired, app_entry) or unsaved, secret, entry.line))
    plan.add(
        "credential",
        f"{entry.label or 'client secret'} of {app_entry.name}",
        {"expires_at": entry.expires_at.date().isoformat() if entry.expires_at else ""},
        entry.line,
        lambda context: credentials.add(
            AppRegistration.objects.get(name=app_entry.name),
            secret,
            actor=context.actor,
            accepted=context.accepted[entry.line],
        ),
    )
