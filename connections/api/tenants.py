"""Tenants over the API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import querysets
from connections.api import etags, key_scoping, problems
from connections.api.field_types import ChangeSchema, DirectoryId, Name, RequestSchema, Text
from connections.api.hrefs import page_link, with_location
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import Page, PageQuery, matching, page
from connections.models import ApiKey, Tenant
from connections.services.registry import tenants

router = Router(tags=["Tenants"])
COLUMNS = ("name", "environment", "directory_id", "tid")
Environment = Text


class TenantOut(Schema):
    """A Microsoft Entra directory. Members of the portal read its name only; the rest is then null."""

    id: int
    name: str
    environment: str = Field(description="The Microsoft cloud it lives in.", examples=["global"])
    directory_id: str | None = Field(description="As in Microsoft's addresses: an ID, a domain, or organizations.")
    tid: str | None = Field(description="The directory's ID as Microsoft told it; empty while it could not be asked.")
    created_at: datetime | None
    link: str = Field(description="Its page in the portal.")


class TenantPage(Page):
    """One page of tenants."""

    items: list[TenantOut]


class TenantsWanted(PageQuery):
    """Which tenants."""

    q: Text = Field("", max_length=100, description="Part of the name or of the directory ID.")
    environment: Text = Field("", max_length=20, description="Only those in this Microsoft cloud.")


class TenantIn(RequestSchema):
    """A tenant to be registered."""

    name: Name
    environment: Environment = Field(
        min_length=1, max_length=20, description="global, usgov_l4, usgov_l5 or china.", examples=["global"]
    )
    directory_id: DirectoryId


class TenantChanges(ChangeSchema):
    """What changes about a tenant. It moves to another directory only while nothing uses it."""

    name: Name | None = None
    environment: Environment | None = Field(None, min_length=1, max_length=20)
    directory_id: DirectoryId | None = None


@router.get("/tenants", response={200: TenantPage} | problems.responses(), summary="List tenants")
def list_tenants(request: HttpRequest, wanted: Query[TenantsWanted]) -> Any:
    """Tenants in the order of their names."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    found = querysets.visible_tenants(key.owner)
    columns = ("name", "directory_id", "tid") if key_scoping.reads_registry(key) else ("name",)
    found = found.filter(matching(wanted.q, *columns))
    if wanted.environment:
        found = found.filter(environment=wanted.environment)
    return page(found, wanted, describe=lambda row: describe(row, key), order=("name", "pk"))


@router.post(
    "/tenants",
    response={201: TenantOut} | problems.responses(*problems.CREATING, 503),
    summary="Register a tenant",
)
@idempotent(Scope.ADMIN_WRITE)
def add_tenant(request: HttpRequest, response: HttpResponse, entry: TenantIn) -> Any:
    """Look a directory up at Microsoft and register it. If Microsoft cannot be asked, `tid` stays empty."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    key_scoping.manage_registry(key)
    made = tenants.add(**entry.model_dump(), actor=key.owner)
    with_location(response, "read_tenant", tenant_id=made.pk)
    etags.tag(response, made, COLUMNS)
    return Status(201, describe(made, key))


@router.get("/tenants/{int:tenant_id}", response={200: TenantOut} | problems.responses(404), summary="Read a tenant")
def read_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int) -> Any:
    """One tenant."""
    key = key_scoping.unlimited(request, Scope.ADMIN_READ)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=tenant_id)
    etags.tag(response, tenant, COLUMNS)
    return describe(tenant, key)


@router.patch(
    "/tenants/{int:tenant_id}",
    response={200: TenantOut} | problems.responses(*problems.CHANGING, 503),
    summary="Change a tenant",
)
def change_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int, entry: TenantChanges) -> Any:
    """Rename it, or point it to another directory while nothing uses it."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=tenant_id)
    key_scoping.manage_registry(key)
    etags.require_match(request, tenant, COLUMNS)
    tenants.change(  # asks Microsoft, so that it locks the row by itself, after that
        tenant,
        **entry.over(name=tenant.name, environment=tenant.environment, directory_id=tenant.directory_id),
        actor=key.owner,
        still=lambda current: etags.require_match(request, current, COLUMNS),
    )
    tenant.refresh_from_db()
    etags.tag(response, tenant, COLUMNS)
    return describe(tenant, key)


@router.delete(
    "/tenants/{int:tenant_id}", response={204: None} | problems.responses(*problems.REMOVING), summary="Remove a tenant"
)
def remove_tenant(request: HttpRequest, tenant_id: int) -> Any:
    """Forget a tenant that nothing uses."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=tenant_id)
    key_scoping.manage_registry(key)
    with etags.lock_matching(request, tenant, COLUMNS) as current:
        tenants.remove(current, actor=key.owner)
    return Status(204, None)


@router.post(
    "/tenants/{int:tenant_id}/look-up",
    response={200: TenantOut} | problems.responses(404, *problems.CREATING, 503),
    summary="Look a tenant up",
)
@idempotent(Scope.ADMIN_WRITE)
def look_up_tenant(request: HttpRequest, response: HttpResponse, tenant_id: int) -> Any:
    """Ask Microsoft for the directory's ID again."""
    key = key_scoping.unlimited(request, Scope.ADMIN_WRITE)
    tenant = get_object_or_404(querysets.visible_tenants(key.owner), pk=tenant_id)
    key_scoping.manage_registry(key)
    tenants.update_from_microsoft(tenant, actor=key.owner)
    etags.tag(response, tenant, COLUMNS)
    return describe(tenant, key)


def describe(tenant: Tenant, key: ApiKey) -> dict[str, Any]:
    """A tenant as TenantOut, as far as the key's owner may read it."""
    shown = key_scoping.reads_registry(key)
    return {
        "id": tenant.pk,
        "name": tenant.name,
        "environment": tenant.environment,
        "directory_id": tenant.directory_id if shown else None,
        "tid": tenant.tid if shown else None,
        "created_at": tenant.created_at if shown else None,
        "link": page_link("tenant", tenant.pk),
    }
