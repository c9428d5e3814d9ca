"""Pages about tenants."""

from __future__ import annotations

from typing import cast

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import PortalError
from connections.forms.tenants import TenantForm
from connections.microsoft import clouds
from connections.models import Tenant, User
from connections.services.registry import tenants
from connections.views import audit, list_pages

NOT_LOOKED_UP = (
    "{tenant} is saved, but Microsoft could not be reached, so its directory was not looked up yet. "
    "Press “Look up at Microsoft” on its page later."
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All tenants."""
    user = cast(User, request.user)
    filters = list_pages.Filters(
        request,
        search=("name", "directory_id", "tid"),
        placeholder="Name or directory ID",
        choices=[list_pages.Choice("environment", "Environment", clouds.choices(), list_pages.by("environment"))],
    )
    found = filters.apply(querysets.visible_tenants(user)).annotate(
        apps=Count("app_registrations", distinct=True), mailboxes=Count("shared_mailboxes", distinct=True)
    )
    return render(request, "tenants/index.html", {"page": list_pages.page(request, found), "filters": filters})


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One tenant: its directory, its applications and mailboxes; for members only the name."""
    user = cast(User, request.user)
    tenant = get_object_or_404(querysets.visible_tenants(user), pk=pk)
    context = {
        "tenant": tenant,
        "environment": _environment(tenant),
        "apps": querysets.visible_app_registrations(user).filter(tenant=tenant)[:100],
        "mailboxes": querysets.visible_mailboxes(user).filter(tenant=tenant)[:100],
        "events": audit.history(user, tenant) if permissions.can_read_registry(user) else [],
    }
    return render(request, "tenants/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    """Register a tenant."""
    user = cast(User, request.user)
    roles.require(permissions.can_manage_registry(user))
    form = TenantForm(request.POST or None)
    if form.is_valid():
        try:
            tenant = tenants.add(**form.cleaned_data, actor=user)
        except PortalError as error:
            form.add_error(error.field or None, str(error))
        else:
            _report(request, tenant, f"{tenant} is registered.")
            return redirect("tenant", tenant.pk)
    return render(request, "tenants/add.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change a tenant; the button "look up" on its page posts here too, with nothing but ``look_up``."""
    user = cast(User, request.user)
    tenant = get_object_or_404(querysets.visible_tenants(user), pk=pk)
    roles.require(permissions.can_manage_registry(user))
    if "look_up" in request.POST:
        return _look_up(request, tenant, user)
    form = TenantForm(request.POST or None, tenant=tenant)
    if form.is_valid():
        try:
            tenants.change(tenant, **form.cleaned_data, actor=user)
        except PortalError as error:
            form.add_error(error.field or None, str(error))
        else:
            _report(request, tenant, f"{tenant} is changed.")
            return redirect("tenant", tenant.pk)
    context = {"form": form, "tenant": tenant, "in_use_by": tenants.objects_using(tenant)}
    return render(request, "tenants/edit.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask, then remove a tenant nothing uses."""
    user = cast(User, request.user)
    tenant = get_object_or_404(querysets.visible_tenants(user), pk=pk)
    roles.require(permissions.can_manage_registry(user))
    if request.method == "POST":
        name = str(tenant)
        try:
            tenants.remove(tenant, actor=user)
        except PortalError as error:
            messages.error(request, str(error))
            return redirect("tenant", pk)
        messages.success(request, f"{name} is removed.")
        return redirect("tenants")
    return render(request, "tenants/remove.html", {"tenant": tenant, "in_use_by": tenants.objects_using(tenant)})


def _look_up(request: HttpRequest, tenant: Tenant, user: User) -> HttpResponse:
    try:
        tenants.update_from_microsoft(tenant, actor=user)
    except PortalError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"Microsoft knows this directory: {tenant.tid}.")
    return redirect("tenant", tenant.pk)


def _report(request: HttpRequest, tenant: Tenant, sentence: str) -> None:
    if tenant.tid or tenant.is_shared_endpoint:
        messages.success(request, sentence)
    else:
        messages.warning(request, NOT_LOOKED_UP.format(tenant=tenant))


def _environment(tenant: Tenant) -> str:
    found = clouds.CLOUDS.get(tenant.environment)
    return found.label if found else f"{tenant.environment} (not configured in this portal)"
