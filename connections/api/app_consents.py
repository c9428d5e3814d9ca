"""The tenants that use an app registration, with its consent and state in each."""

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.utils import timezone
from ninja import Query, Router, Schema, Status
from pydantic import Field

from connections.access import permissions, querysets, roles
from connections.api import key_scoping, problems
from connections.api.field_types import Name, RequestSchema, Text, Words
from connections.api.idempotency import idempotent
from connections.api.key_scoping import Scope
from connections.api.pagination import PageQuery, page, page_of
from connections.models import AppConsent, AppRegistration
from connections.services.consent import app_tenants
from connections.services.registry import app_consents, credential_checks

router = Router(tags=["App registrations"])


class AppConsentOut(Schema):
    """An app registration in one tenant."""

    tenant_id: int
    tenant: str = Field(validation_alias="tenant.name")
    seen_at: datetime | None = Field(description="When Microsoft first issued a token there. Null: not yet.")
    granted_roles: Words = Field(description="Application permissions in the last app-only token.")
    rejected_at: datetime | None = Field(description="When Microsoft started to reject it in this tenant only.")
    rejected_cause: str
    rejected_action: str
    paused_until: datetime | None = Field(description="Until when Microsoft throttles it in this tenant.")


class AppConsentAdded(AppConsentOut):
    consent_url: str = Field(description="Where an administrator of the tenant grants consent. Works once, for 7 days.")


class AppConsentIn(RequestSchema):
    directory_id: Text = Field(
        min_length=1, max_length=253, description="A directory ID or verified domain.", examples=["fabrikam.com"]
    )
    name: Name | None = Field(None, description="The name of the tenant, if it isn't registered yet.")


@router.get("/app-registrations/{int:app_id}/tenants", response=page_of(AppConsentOut), summary="List an app's tenants")
def list_app_consents(request: HttpRequest, app_id: int, query: Query[PageQuery]) -> Any:
    """The tenants that use the app registration, ordered by ID."""
    key, app = key_scoping.key_and_object(request, querysets.visible_app_registrations, app_id, Scope.ADMIN_READ)
    roles.require(permissions.can_read_registry(key.owner), action="Ask an IT admin.")
    return page(app.consents.select_related("tenant"), query)


@router.post(
    "/app-registrations/{int:app_id}/tenants",
    response={201: AppConsentAdded} | problems.responses(503),
    summary="Add a tenant to an app",
)
@idempotent(Scope.ADMIN_WRITE)
def add_app_consent(request: HttpRequest, app_id: int, body: AppConsentIn) -> Any:
    """Use a multitenant app registration in another tenant, with the same credentials. Safe to repeat.

    A directory that isn't a tenant yet is registered. Send `consent_url` to an administrator of the tenant.
    """
    key, app = key_scoping.managed_app(request, app_id)
    consent, url = app_tenants.add(app, directory_id=body.directory_id, name=body.name or "", actor=key.owner)
    consent.consent_url = url  # type: ignore[attr-defined]
    return Status(201, consent)


@router.post(
    "/app-registrations/{int:app_id}/tenants/{int:tenant_id}/check",
    response={200: AppConsentOut} | problems.responses(503),
    summary="Test an app in a tenant",
)
@idempotent(Scope.ADMIN_WRITE)
def check_app_consent(request: HttpRequest, app_id: int, tenant_id: int) -> Any:
    """Request an app-only token in this tenant, and store the permissions in it."""
    _, app = key_scoping.managed_app(request, app_id)
    credential_checks.check_tenant(_consent(app, tenant_id), now=timezone.now())
    return _consent(app, tenant_id)


@router.delete(
    "/app-registrations/{int:app_id}/tenants/{int:tenant_id}",
    response={204: None} | problems.responses(409),
    summary="Remove a tenant from an app",
)
def remove_app_consent(request: HttpRequest, app_id: int, tenant_id: int) -> Any:
    """Stop using the app registration in this tenant. It must not have any connections there."""
    key, app = key_scoping.managed_app(request, app_id)
    app_consents.remove(_consent(app, tenant_id), actor=key.owner, now=timezone.now())
    return Status(204, None)


def _consent(app: AppRegistration, tenant_id: int) -> AppConsent:
    consents = app.consents.select_related("app_registration__tenant", "tenant")
    return get_object_or_404(consents, tenant=tenant_id)
