from collections.abc import Callable

from django.db import transaction
from django.db.models import Q

from connections import audit
from connections.errors import AlreadyExists, InUse, InvalidInput, MicrosoftRefused, MicrosoftUnavailable
from connections.microsoft import clouds, directory_lookup
from connections.models import AppRegistration, Tenant, User
from connections.models.audit import AuditAction
from connections.models.tenants import SHARED_ENDPOINTS
from connections.uniqueness import atomic_or


def add(name: str, *, environment: str, directory_id: str, actor: User | None, tid: str | None = None) -> Tenant:
    """Look the directory up at Microsoft and register it.

    If Microsoft is unavailable, ``tid`` stays empty until ``update_from_microsoft`` sets it. Callers that have already
    used ``look_up_directory`` pass its result as ``tid``. Raises AlreadyExists, or InvalidInput if Microsoft doesn't
    know the directory.
    """
    tenant = Tenant(name=name, environment=environment, directory_id=directory_id.lower(), created_by=actor)
    _check_unique(tenant)
    tenant.tid = _look_up_if_possible(tenant) if tid is None else tid
    _check_same_directory(tenant)
    with atomic_or(lambda: _duplicate(tenant)):
        tenant.save()
        changes = {"environment": environment, "directory_id": tenant.directory_id, "tid": tenant.tid}
        audit.record(AuditAction.TENANT_ADDED, tenant, actor=actor, changes=changes)
    return tenant


def update_from_microsoft(tenant: Tenant, *, actor: User | None) -> None:
    """Look up and store the tenant's GUID.

    Raises MicrosoftUnavailable, AlreadyExists, or InvalidInput if Microsoft doesn't know the directory.
    """
    before, tid = tenant.tid, look_up_directory(tenant.environment, tenant.directory_id)
    if tid == before:
        return
    _check_same_directory(Tenant(pk=tenant.pk, environment=tenant.environment, tid=tid))
    tenant.tid = tid
    with transaction.atomic():
        tenant.save(update_fields=["tid"])
        audit.record(AuditAction.TENANT_LOOKED_UP, tenant, actor=actor, changes={"tid": [before, tid]})


def change(
    tenant: Tenant,
    *,
    name: str,
    environment: str,
    directory_id: str,
    actor: User | None,
    tid: str | None = None,
    still: Callable[[Tenant], None] = lambda current: None,
) -> None:
    """Change the name or, if nothing uses the tenant, the directory.

    Before anything is written, ``still`` is called with the current row, which is locked. It may raise an error to stop
    the change. ``tid`` is as in ``add``. Raises InUse, AlreadyExists, or InvalidInput if Microsoft doesn't know the
    directory.
    """
    new = Tenant(pk=tenant.pk, name=name, environment=environment, directory_id=directory_id.lower(), tid=tenant.tid)
    moved = (new.environment, new.directory_id) != (tenant.environment, tenant.directory_id)
    if moved:
        _check_unused(tenant, action="Add the other directory as a separate tenant.", field="directory_id")
    _check_unique(new)
    if moved:
        new.tid = _look_up_if_possible(new) if tid is None else tid
        _check_same_directory(new)
    values = {field: getattr(new, field) for field in ("name", "environment", "directory_id", "tid")}
    changes = audit.changed_fields(tenant, values)
    if not changes:
        return
    with atomic_or(lambda: _duplicate(new)):
        still(Tenant.objects.select_for_update().get(pk=tenant.pk))
        Tenant.objects.filter(pk=tenant.pk).update(**{field: values[field] for field in changes})
        audit.record(AuditAction.TENANT_CHANGED, new, actor=actor, changes=changes)
    tenant.refresh_from_db()


def remove(tenant: Tenant, *, actor: User | None) -> None:
    """Delete a tenant. Raises InUse, naming the objects that still refer to it."""
    with transaction.atomic():
        _check_unused(tenant, action="Remove those first.")
        audit.record(AuditAction.TENANT_REMOVED, tenant, actor=actor)
        tenant.delete()


def objects_using(tenant: Tenant) -> list[str]:
    """Return the names of app registrations and shared mailboxes that use this tenant, at most three per kind."""
    objects = []
    apps = AppRegistration.objects.filter(Q(tenant=tenant) | Q(consents__tenant=tenant)).distinct()
    for label, names in (
        ("app registration", apps.values_list("name", flat=True)),
        ("shared mailbox", tenant.shared_mailboxes.values_list("address", flat=True)),
    ):
        first = list(names[:4])
        objects += [f"{label} {name}" for name in first[:3]] + (["more of them"] if len(first) > 3 else [])
    return objects


def look_up_directory(environment: str, directory_id: str) -> str:
    """Return a directory's GUID, or "" for a shared endpoint that has none.

    Raises MicrosoftUnavailable, or InvalidInput if Microsoft doesn't know the directory or the environment isn't
    configured.
    """
    directory_id = directory_id.lower()
    if directory_id in SHARED_ENDPOINTS:
        return clouds.CONSUMERS_TID if directory_id == "consumers" else ""
    if environment not in clouds.CLOUDS:
        raise InvalidInput("This environment isn't configured in this portal.", field="environment")
    cloud = clouds.cloud(environment)
    try:
        return directory_lookup.discover(cloud, directory_id).tid
    except MicrosoftUnavailable:
        raise
    except MicrosoftRefused as error:
        raise InvalidInput(
            f"Microsoft can't find the directory “{directory_id}” in {cloud.label}.",
            action="Check the Tenant ID on the Overview page in Entra. If your organisation uses another "
            "Microsoft cloud, choose that environment.",
            field="directory_id",
        ) from error


def cloud_of(tenant: Tenant) -> clouds.Cloud:
    """Return the tenant's cloud. Raises InvalidInput if its environment is no longer configured."""
    if tenant.environment not in clouds.CLOUDS:
        raise InvalidInput(
            f"The environment “{tenant.environment}” isn't configured in this portal.",
            action="An operator needs to configure it again.",
        )
    return clouds.cloud(tenant.environment)


def _look_up_if_possible(tenant: Tenant) -> str:
    try:
        return look_up_directory(tenant.environment, tenant.directory_id)
    except MicrosoftUnavailable:
        return ""


def _check_unused(tenant: Tenant, *, action: str, field: str = "") -> None:
    used_by = objects_using(tenant)
    if used_by:
        raise InUse(f"{tenant} is still used by {', '.join(used_by)}.", action=action, field=field)


def _check_unique(tenant: Tenant) -> None:
    same = Q(name=tenant.name) | Q(environment=tenant.environment, directory_id=tenant.directory_id)
    if Tenant.objects.exclude(pk=tenant.pk).filter(same).exists():
        raise _duplicate(tenant)


def _check_same_directory(tenant: Tenant) -> None:
    """Raise AlreadyExists if another tenant has the same directory, which can be given as a domain or a GUID."""
    if not tenant.tid:
        return
    others = Tenant.objects.exclude(pk=tenant.pk).filter(environment=tenant.environment)
    same = others.filter(tid=tenant.tid).first() or others.filter(directory_id=tenant.tid).first()
    if same is not None:
        raise AlreadyExists(
            f"The tenant {same} already uses this directory.", action="Use that tenant.", field="directory_id"
        )


def _duplicate(tenant: Tenant) -> AlreadyExists:
    others = Tenant.objects.exclude(pk=tenant.pk)
    same = others.filter(environment=tenant.environment, directory_id=tenant.directory_id).first()
    if same is not None:
        return AlreadyExists(
            f"This directory is already registered as {same}.", action="Use that tenant.", field="directory_id"
        )
    return AlreadyExists("Another tenant has this name.", action="Choose another name.", field="name")
