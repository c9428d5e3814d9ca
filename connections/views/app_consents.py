"""The tenants that use an app registration, with its consent and state in each."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from connections.access import permissions, querysets, roles
from connections.forms.app_consents import AddTenantForm
from connections.models import AppConsent, AppRegistration, User
from connections.services.consent import app_tenants
from connections.services.registry import app_consents, credential_checks
from connections.views import list_pages
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible


@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest, pk: int) -> HttpResponse:
    """List the app registration's tenants. A POST request adds a tenant and leads to its consent link."""
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    roles.require(permissions.can_read_registry(user), action="Ask an IT admin.")
    if request.method == "POST":
        roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    form = AddTenantForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            consent, _ = app_tenants.add(app, **form.cleaned_data, actor=user)
            text = f"{consent.tenant} is added. An administrator there needs to grant consent with the link below."
            return done(request, text, "consent_start", pk=pk)
    filters = list_pages.Filters(
        request, search=("tenant__name", "tenant__directory_id"), placeholder="Tenant or directory ID"
    )
    rows = filters.apply(app.consents.select_related("tenant"))
    context = {
        "app": app,
        "page": list_pages.page(request, rows, order=("tenant__name", "pk")),
        "filters": filters,
        "form": form if app.is_multitenant and permissions.can_manage_registry(user) else None,
    }
    return render(request, "app_consents/index.html", context, status=422 if form.errors else 200)


@require_POST
def check(request: HttpRequest, pk: int, consent_pk: int) -> HttpResponse:
    """Request an app-only token in the tenant, which shows whether consent was granted."""
    _, consent = _managed(request, pk, consent_pk)
    with errors_as_messages(request, level=messages.ERROR):
        granted = credential_checks.check_tenant(consent, now=timezone.now())
        names = ", ".join(granted) or "no application permissions"
        messages.success(request, f"Microsoft accepts {consent}. Tokens contain {names}.")
    return redirect("app_consents", pk=pk)


@require_POST
def remove(request: HttpRequest, pk: int, consent_pk: int) -> HttpResponse:
    user, consent = _managed(request, pk, consent_pk)
    with errors_as_messages(request, level=messages.ERROR):
        app_consents.remove(consent, actor=user, now=timezone.now())
        messages.success(request, f"{consent.app_registration} is no longer used in {consent.tenant}.")
    return redirect("app_consents", pk=pk)


def _managed(request: HttpRequest, pk: int, consent_pk: int) -> tuple[User, AppConsent]:
    app: AppRegistration
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    consents = app.consents.select_related("app_registration__tenant", "tenant")
    return user, get_object_or_404(consents, pk=consent_pk)
