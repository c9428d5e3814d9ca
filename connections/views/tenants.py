from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from connections.access import counts, permissions, querysets, roles
from connections.forms.tenants import TenantForm
from connections.microsoft import clouds
from connections.models import AppRegistration, SharedMailbox, Tenant, User
from connections.services.registry import tenants
from connections.views import audit, list_pages
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    filters = list_pages.Filters(
        request,
        search=("name", "directory_id", "tid"),
        placeholder="Name or directory ID",
        choices=[list_pages.Choice("environment", "Environment", clouds.choices(), list_pages.by("environment"))],
        sorts=list_pages.name_sorts("name"),
    )
    rows = filters.apply(querysets.visible_tenants(roles.current_user(request.user))).annotate(
        apps=counts.related(AppRegistration.objects.all(), "tenant"),
        mailboxes=counts.related(SharedMailbox.objects.all(), "tenant"),
    )
    page = list_pages.page(request, rows, order=filters.order)
    return render(request, "tenants/index.html", {"page": page, "filters": filters})


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a tenant with its app registrations and mailboxes."""
    user, tenant = get_visible(request, querysets.visible_tenants, pk)
    cloud = clouds.CLOUDS.get(tenant.environment)
    context = {
        "tenant": tenant,
        "environment": cloud.label if cloud else f"{tenant.environment} (not configured in this portal)",
        "apps": querysets.visible_app_registrations(user).filter(tenant=tenant)[:100],
        "mailboxes": querysets.visible_mailboxes(user).filter(tenant=tenant)[:100],
        "events": audit.history(user, tenant) if permissions.can_read_registry(user) else [],
    }
    return render(request, "tenants/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(permissions.can_manage_registry(user))
    form = TenantForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            tenant = tenants.add(**form.cleaned_data, actor=user)
            return _report_saved(request, tenant, f"{tenant} was added.")
    return render(request, "tenants/add.html", {"form": form})


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change a tenant. With ``look_up`` in the form, only look up its directory again."""
    user, tenant = _managed_tenant(request, pk)
    if "look_up" in request.POST:
        with errors_as_messages(request, level=messages.ERROR):
            tenants.update_from_microsoft(tenant, actor=user)
            messages.success(request, f"Tenant verified: {tenant.tid}.")
        return redirect("tenant", pk)
    form = TenantForm(request.POST or None, tenant=tenant)
    if form.is_valid():
        with errors_on(form):
            tenants.change(tenant, **form.cleaned_data, actor=user)
            return _report_saved(request, tenant, f"{tenant} was updated.")
    context = {"form": form, "tenant": tenant, "in_use_by": tenants.objects_using(tenant)}
    return render(request, "tenants/edit.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, tenant = _managed_tenant(request, pk)
    if request.method == "POST":
        with errors_as_messages(request, level=messages.ERROR):
            tenants.remove(tenant, actor=user)
            return done(request, f"{tenant} was removed.", "tenants")
        return redirect("tenant", pk)
    return render(request, "tenants/remove.html", {"tenant": tenant, "in_use_by": tenants.objects_using(tenant)})


def _managed_tenant(request: HttpRequest, pk: int) -> tuple[User, Tenant]:
    user, tenant = get_visible(request, querysets.visible_tenants, pk)
    roles.require(permissions.can_manage_registry(user))
    return user, tenant


def _report_saved(request: HttpRequest, tenant: Tenant, sentence: str) -> HttpResponse:
    if tenant.tid or tenant.is_shared_endpoint:
        messages.success(request, sentence)
    else:
        sentence = f"{tenant} is saved, but couldn't be verified, because Microsoft couldn't be reached. "
        messages.warning(request, f"{sentence}Open the tenant later and select “Verify tenant”.")
    return redirect("tenant", tenant.pk)
