from datetime import datetime
from typing import Annotated, Any

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import etags, key_scoping, problems
from connections.api.field_types import ChangeSchema, DirectoryId, Name, RequestSchema, Text
from connections.api.hrefs import link_to, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import RegistryOnly, Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import ApiKey, Tenant
from connections.services.registry import tenants

router = Router(tags=["Tenants"])
COLUMNS = ("name", "environment", "directory_id", "tid")


class TenantOut(Schema):
    """A Microsoft Entra directory. Members get only its name; the other fields are null."""

    id: int
    name: str
    environment: str = Field(description="Its Microsoft cloud.", examples=["global"])
    directory_id: Annotated[str | None, RegistryOnly] = Field(description="A directory ID, a domain, or organizations.")
    tid: Annotated[str | None, RegistryOnly] = Field(
        description="The directory ID, as verified with Microsoft. Empty if not verified yet."
    )
    created_at: Annotated[datetime | None, RegistryOnly]
    link: Annotated[str, link_to("tenant")] = Field(validation_alias="pk", description="Its page in the portal.")


class TenantQuery(PageQuery):
    not_columns = {"q"}

    q: Text = Field("", max_length=100, description="Part of the name or of the directory ID.")
    environment: Text = Field("", max_length=20, description="Only those in this Microsoft cloud.")


class TenantIn(RequestSchema):
    name: Name
    environment: Text = Field(
        min_length=1, max_length=20, description="global, usgov_l4, usgov_l5 or china.", examples=["global"]
    )
    directory_id: DirectoryId


class TenantChanges(ChangeSchema):
    """Changes to a tenant. You can change its directory only while nothing uses the tenant."""

    name: Name | None = None
    environment: Text | None = Field(None, min_length=1, max_length=20)
    directory_id: DirectoryId | None = None


def _managed_tenant(request: HttpRequest, tenant_id: int) -> tuple[ApiKey, Tenant]:
    key, tenant = key_scoping.key_and_object(request, querysets.visible_tenants, tenant_id, Scope.ADMIN_WRITE)
    key_scoping.manage_registry(key)
    return key, tenant


@router.get("/tenants", response=page_of(TenantOut), summary="List tenants")
def list_tenants(request: HttpRequest, query: Query[TenantQuery]) -> Any:
    """Tenants, ordered by name."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    matches = Q(name__icontains=query.q)
    if key_scoping.reads_registry(key):
        matches |= Q(directory_id__icontains=query.q) | Q(tid__icontains=query.q)
    return page(querysets.visible_tenants(key.owner).filter(matches), query, order=("name", "pk"))


@router.post("/tenants", response={201: TenantOut} | problems.responses(503), summary="Add a tenant")
@idempotent(Scope.ADMIN_WRITE)
def add_tenant(request: HttpRequest, response: HttpResponse, body: TenantIn) -> Any:
    """Add a tenant after verifying its directory with Microsoft. If Microsoft is unavailable, `tid` stays empty."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    key_scoping.manage_registry(key)
    tenant = tenants.add(**body.model_dump(), actor=key.owner)
    with_location(response, "read_tenant", tenant_id=tenant.pk)
    return Status(201, etags.tag(response, tenant, COLUMNS))


@router.get("/tenants/{int:tenant_id}", response=TenantOut, summary="Get a tenant")
def read_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int) -> Any:
    """One tenant."""
    _, tenant = key_scoping.key_and_object(request, querysets.visible_tenants, tenant_id, Scope.ADMIN_READ)
    return etags.tag(response, tenant, COLUMNS)


@router.patch(
    "/tenants/{int:tenant_id}", response={200: TenantOut} | problems.responses(503), summary="Change a tenant"
)
def change_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int, body: TenantChanges) -> Any:
    """Rename a tenant or, while nothing uses it, change its directory."""
    key, tenant = _managed_tenant(request, tenant_id)
    etags.require_match(request, tenant, COLUMNS)
    # change() asks Microsoft before it locks the row, so it checks If-Match again under the lock.
    tenants.change(
        tenant,
        **body.over(name=tenant.name, environment=tenant.environment, directory_id=tenant.directory_id),
        actor=key.owner,
        still=lambda current: etags.require_match(request, current, COLUMNS),
    )
    tenant.refresh_from_db()
    return etags.tag(response, tenant, COLUMNS)


@router.delete(
    "/tenants/{int:tenant_id}", response={204: None} | problems.responses(409, 412), summary="Remove a tenant"
)
def remove_tenant(request: HttpRequest, tenant_id: int) -> Any:
    """Delete a tenant that nothing uses."""
    key, tenant = _managed_tenant(request, tenant_id)
    with etags.lock_matching(request, tenant, COLUMNS) as current:
        tenants.remove(current, actor=key.owner)
    return Status(204, None)


@router.post(
    "/tenants/{int:tenant_id}/look-up", response={200: TenantOut} | problems.responses(503), summary="Verify a tenant"
)
@idempotent(Scope.ADMIN_WRITE)
def look_up_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int) -> Any:
    """Verify the directory ID with Microsoft again."""
    key, tenant = _managed_tenant(request, tenant_id)
    tenants.update_from_microsoft(tenant, actor=key.owner)
    return etags.tag(response, tenant, COLUMNS)
