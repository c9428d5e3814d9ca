"""What a configuration file wants of tenants, app registrations and their credentials."""

from __future__ import annotations

import hmac
from typing import Any

from connections.errors import UnreadableSecret
from connections.microsoft import clouds, token_endpoint
from connections.models import AppCredential, AppRegistration, Tenant
from connections.services.config.schema import AppEntry, Configuration, CredentialEntry, TenantEntry, WrongEntry
from connections.services.config.steps import (
    CredentialTest,
    Plan,
    Step,
    StepContext,
    Verb,
    describe_new,
    differences,
    given_values,
    removals,
)
from connections.services.registry import app_registrations, credential_checks, credentials, tenants


def plan_tenants(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove those the file does not name. Raises WrongEntry."""
    if wanted.tenants is None:
        return []
    left = {(tenant.environment, tenant.directory_id): tenant for tenant in Tenant.objects.all()}
    same = {entry: left.pop(entry.directory, None) for entry in wanted.tenants}
    for entry, existing in same.items():
        if existing is None:
            # One of this name, whose directory nobody else names, has moved to another directory.
            moved = next((key for key, one in left.items() if one.name == entry.name), None)
            existing = left.pop(moved) if moved else None
        _tenant(plan, entry, existing)
    return removals("tenant", left.values(), lambda one, doing: tenants.remove(one, actor=doing.actor))


def _tenant(plan: Plan, entry: TenantEntry, existing: Tenant | None) -> None:
    if existing is None or (existing.environment, existing.directory_id) != entry.directory:
        if entry.environment not in clouds.CLOUDS:
            known = f"Use one of {', '.join(clouds.CLOUDS)}."
            raise WrongEntry(f"There is no environment “{entry.environment}”.", action=known, line=entry.line)
        plan.lookups.append(entry)
    values = {"name": entry.name, "environment": entry.environment, "directory_id": entry.directory_id}
    if existing is None:
        facts = describe_new({"environment": entry.environment, "directory_id": entry.directory_id})
        plan.do(Verb.ADD, "tenant", entry.name, facts, entry.line, lambda doing: _add_tenant(entry, doing))
    elif changes := differences({name: getattr(existing, name) for name in values}, values):
        plan.do(
            Verb.CHANGE,
            "tenant",
            existing.name,
            changes,
            entry.line,
            lambda doing: _change_tenant(existing, entry, doing),
        )


def _add_tenant(entry: TenantEntry, doing: StepContext) -> None:
    tenants.add(
        entry.name,
        environment=entry.environment,
        directory_id=entry.directory_id,
        actor=doing.actor,
        tid=doing.directories.get(entry.directory, ""),
    )


def _change_tenant(tenant: Tenant, entry: TenantEntry, doing: StepContext) -> None:
    tenants.change(
        tenant,
        name=entry.name,
        environment=entry.environment,
        directory_id=entry.directory_id,
        actor=doing.actor,
        tid=doing.directories.get(entry.directory, ""),
    )


def find_tenant(wanted: Configuration, name: str, line: int) -> Tenant:
    """The tenant a name means once the file is applied; unsaved if it has yet to be added. Raises WrongEntry."""
    for entry in wanted.tenants or ():
        if entry.name == name:
            tenant = Tenant.objects.filter(environment=entry.environment, directory_id=entry.directory_id).first()
            return tenant or Tenant(name=name, environment=entry.environment, directory_id=entry.directory_id)
    tenant = Tenant.objects.filter(name=name).first()
    if tenant is None:
        raise WrongEntry(f"There is no tenant “{name}”, in the file or in the portal.", line=line)
    return tenant


def plan_app_registrations(plan: Plan, wanted: Configuration) -> list[Step]:
    """Append what has to be done; returns what would remove what the file does not name. Raises WrongEntry."""
    if wanted.app_registrations is None:
        return []
    left = {app.pk: app for app in AppRegistration.objects.all()}
    unnamed: list[Step] = []
    for entry in wanted.app_registrations:
        existing = find_app_registration(wanted, entry)
        if existing is not None:
            left.pop(existing.pk, None)
        _app(plan, entry, existing)
        unnamed += _credentials(plan, wanted, entry, existing)
    remove = removals(
        "app registration", left.values(), lambda one, doing: app_registrations.remove(one, actor=doing.actor)
    )
    return [*unnamed, *remove]


def find_app_registration(wanted: Configuration, entry: AppEntry) -> AppRegistration | None:
    """The app registration an entry means, if it is registered: known by tenant and client ID, whatever its name."""
    tenant = find_tenant(wanted, entry.tenant, entry.line)
    if tenant._state.adding:
        return None
    return AppRegistration.objects.filter(tenant=tenant, client_id=entry.client_id).first()


def _app(plan: Plan, entry: AppEntry, existing: AppRegistration | None) -> None:
    wishes = given_values(
        audience=entry.audience,
        allows_delegated=entry.allows_delegated,
        allows_app_only=entry.allows_app_only,
        default_capabilities=None if entry.default_capabilities is None else list(entry.default_capabilities),
    )
    if existing is None:
        facts = describe_new({"tenant": entry.tenant, "client_id": entry.client_id, **wishes})
        plan.do(
            Verb.ADD,
            "app registration",
            entry.name,
            facts,
            entry.line,
            lambda doing: _register(entry, wishes, doing),
        )
        return
    names = ("name", "audience", "allows_delegated", "allows_app_only", "default_capabilities")
    current: dict[str, Any] = {name: getattr(existing, name) for name in names}
    values = current | wishes | {"name": entry.name}
    if changes := differences(current, values):
        plan.do(
            Verb.CHANGE,
            "app registration",
            existing.name,
            changes,
            entry.line,
            lambda doing: app_registrations.change(existing, **values, actor=doing.actor),
        )


def _register(entry: AppEntry, wishes: dict[str, Any], doing: StepContext) -> None:
    tenant = Tenant.objects.get(name=entry.tenant)
    app_registrations.register(tenant, name=entry.name, client_id=entry.client_id, actor=doing.actor, **wishes)


def _credentials(plan: Plan, wanted: Configuration, entry: AppEntry, existing: AppRegistration | None) -> list[Step]:
    if entry.credentials is None:
        return []
    live = existing.credentials.live().defer("secret", "private_key") if existing else ()
    left = {one.pk: one for one in live}
    # A label alone takes what the more exact ones leave over.
    for one in sorted(entry.credentials, key=lambda credential: not (credential.value or credential.thumbprint)):
        same = _same(one, list(left.values()))
        if same is not None:
            del left[same.pk]
        elif one.value:
            _new_secret(plan, wanted, entry, one)
        else:
            which = f"{one.kind} {one.label or one.thumbprint[:8]}".strip()
            plan.notes.append(
                f"line {one.line}: {entry.name} has no {which}. The file only "
                "mentions it and holds no secret: name one with secret_file or secret_env, or add it in the portal."
            )
    return removals("credential", left.values(), lambda one, doing: credentials.retire(one, actor=doing.actor))


def _same(entry: CredentialEntry, live: list[AppCredential]) -> AppCredential | None:
    """The credential an entry means: the same secret or thumbprint, or the same label where nothing else is said."""
    for one in live:
        if one.kind != entry.kind:
            continue
        if entry.value:
            fits = _holds(one, entry.value)
        else:
            fits = one.thumbprint == entry.thumbprint if entry.thumbprint else one.label == entry.label
        if fits:
            return one
    return None


def _holds(credential: AppCredential, value: str) -> bool:
    try:
        opened = credential_checks.decrypt_credential(credential)
    except UnreadableSecret:
        return False
    return isinstance(opened, token_endpoint.ClientSecret) and hmac.compare_digest(
        opened.value.encode(), value.encode()
    )


def _new_secret(plan: Plan, wanted: Configuration, entry: AppEntry, credential_entry: CredentialEntry) -> None:
    secret = credentials.NewSecret(credential_entry.value, credential_entry.expires_at, credential_entry.label)
    tenant = find_tenant(wanted, entry.tenant, entry.line)
    unsaved = AppRegistration(name=entry.name, tenant=tenant, client_id=entry.client_id)
    plan.trials.append(CredentialTest(find_app_registration(wanted, entry) or unsaved, secret, credential_entry.line))
    facts = describe_new(
        {"expires_at": credential_entry.expires_at.date().isoformat() if credential_entry.expires_at else ""}
    )
    name = f"{credential_entry.label or 'client secret'} of {entry.name}"
    plan.do(
        Verb.ADD,
        "credential",
        name,
        facts,
        credential_entry.line,
        lambda doing: _add_secret(entry, secret, credential_entry, doing),
    )


def _add_secret(
    entry: AppEntry, secret: credentials.NewSecret, credential_entry: CredentialEntry, doing: StepContext
) -> None:
    app = AppRegistration.objects.get(name=entry.name)
    credentials.add(app, secret, actor=doing.actor, accepted=doing.accepted[credential_entry.line])
