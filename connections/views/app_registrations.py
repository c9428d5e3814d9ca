from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.text import slugify
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import counts, permissions, querysets, roles
from connections.effective_status import EffectiveStatus
from connections.errors import InvalidInput, MicrosoftRefused, PortalError
from connections.forms.app_registrations import AppRegistrationEditForm, AppRegistrationForm, ScriptForm
from connections.forms.credentials import CredentialForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.microsoft import az_script, capabilities, clouds, credential_expiry
from connections.models import AppCredential, AppRegistration, AuditEvent, Tenant, User
from connections.services.expiry import credential_expiry as recorded_expiry
from connections.services.operations import status_counts
from connections.services.registry import app_registrations, credential_checks, credentials
from connections.views import consent, list_pages
from connections.views import credentials as credential_views
from connections.views.credentials import managed_app
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible

SHOWN_TENANTS = 5
_STATES = (("ready", "Ready"), ("untried", "Not tested yet"), ("rejected", "Rejected by Microsoft"))
_ALLOWS = (("delegated", "Delegated"), ("app_only", "App-only"))


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("name", "client_id", "tenant__name"),
        placeholder="Name, client ID or tenant",
        choices=[
            list_pages.Choice("state", "Status", _STATES, _in_state),
            list_pages.Choice(
                "allows", "Connection types", _ALLOWS, lambda apps, value: apps.filter(**{f"allows_{value}": True})
            ),
        ],
        sorts=list_pages.name_sorts("name"),
    )
    live = Q(credentials__retired_at=None)
    rows = filters.apply(querysets.visible_app_registrations(user)).annotate(
        connection_count=counts.connections_of_apps(), first_expiry=Min("credentials__expires_at", filter=live)
    )
    context = {
        "page": list_pages.page(request, rows, order=filters.order),
        "filters": filters,
        "soon": timezone.now() + credential_views.EXPIRES_SOON,
    }
    return render(request, "apps/index.html", context)


def _in_state(queryset: QuerySet[Any], value: str) -> QuerySet[Any]:
    if value == "rejected":
        return queryset.filter(rejected_at__isnull=False)
    return queryset.filter(rejected_at=None, verified_at__isnull=value == "untried")


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an app registration. Members only see its name and tenant."""
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    context: dict[str, Any] = {"app": app}
    if permissions.can_read_registry(user):
        by_status = status_counts.of_app(app)
        known = capabilities.CAPABILITIES
        consents = list(app.consents.select_related("tenant")[: SHOWN_TENANTS + 1])
        context |= {
            "consents": consents[:SHOWN_TENANTS],
            "has_more_consents": len(consents) > SHOWN_TENANTS,
            "redirect_uris": redirect_uris(),
            **credential_views.panel(app, timezone.now()),
            "connections_by_status": [(state.label, by_status[state]) for state in EffectiveStatus if by_status[state]],
            "capabilities": [known[key].label for key in app.default_capabilities if key in known],
            "cloud": clouds.CLOUDS.get(app.tenant.environment),
            "consent": consent.panel(user, app),
            "events": _history(user, app),
        }
    return render(request, "apps/detail.html", context)


def redirect_uris() -> list[tuple[str, str]]:
    """Return the purpose and the address of each redirect URI. Entra compares them exactly (reply-url)."""
    sign_in = reverse("social:complete", args=["microsoft-connect"])
    return [
        ("Sign-in", f"{settings.PORTAL_URL}{sign_in}"),
        ("Admin consent", f"{settings.PORTAL_URL}{reverse('consent_callback')}"),
    ]


def _history(user: User, app: AppRegistration) -> list[AuditEvent]:
    """Return the latest events about the registration and its credentials."""
    credential_ids = [str(pk) for pk in app.credentials.values_list("pk", flat=True)]
    own = Q(target_type="AppRegistration", target_id=str(app.pk))
    theirs = Q(target_type="AppCredential", target_id__in=credential_ids)
    return list(querysets.visible_events(user).filter(own | theirs)[:20])


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add(request: HttpRequest) -> HttpResponse:
    """Register an application with its first credential. ``?script`` shows the script that creates it in Entra."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_manage_registry(user))
    if "script" in request.GET:
        return _script_page(request, None)
    tenants, tenant = Tenant.objects.values_list("pk", flat=True)[:2], request.GET.get("tenant", "")
    chosen = tenant if tenant.isdecimal() else tenants[0] if len(tenants) == 1 else None
    form = AppRegistrationForm(request.POST or None, initial={"tenant": chosen})
    credential = CredentialForm(request.POST or None, request.FILES or None)
    can_skip = False
    if form.is_valid() & credential.is_valid():
        new = credentials.credential_from_form(credential.cleaned_data, name=form.cleaned_data["name"])
        with errors_on(form):
            try:
                app = app_registrations.register(
                    **form.cleaned_data, credential=new, actor=user, allow_untried="save_untried" in request.POST
                )
            except MicrosoftRefused as error:
                can_skip = app_registrations.can_be_saved_untested(error)
                credential_views.show_refusal(error, credential, form)
            else:
                _report_added(request, app)
                return redirect("app", app.pk)
    context = {
        "form": form,
        "credential": credential,
        "can_skip": can_skip,
        "redirect_uris": redirect_uris(),
        "has_tenants": Tenant.objects.exists(),
    }
    return render(request, "apps/add.html", context)


def _report_added(request: HttpRequest, app: AppRegistration) -> None:
    if app.verified_at:
        messages.success(request, f"{app} is ready. Microsoft accepts the credential.")
        return
    kind = app.credentials.values_list("kind", flat=True).first()
    if kind in credential_views.NEXT_STEPS:
        messages.info(request, credential_views.NEXT_STEPS[AppCredential.Kind(kind)])
    else:
        messages.warning(request, f"{app} is saved, but Microsoft hasn't accepted the credential yet.")


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, app = managed_app(request, pk)
    form = AppRegistrationEditForm(request.POST or None, app_registration=app)
    if form.is_valid():
        with errors_on(form):
            app_registrations.change(app, **form.cleaned_data, actor=user)
            return done(request, f"{app} was updated.", "app", pk=pk)
    return render(request, "apps/edit.html", {"form": form, "app": app})


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required()
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, app = managed_app(request, pk)
    if request.method == "POST":
        with errors_as_messages(request, level=messages.ERROR):
            app_registrations.remove(app, actor=user)
            return done(request, f"{app} was removed.", "apps")
        return redirect("app", pk=pk)
    names = list(app.connections.values_list("name", flat=True)[:11])
    return render(request, "apps/remove.html", {"app": app, "connection_names": names})


@require_POST
def verify(request: HttpRequest, pk: int) -> HttpResponse:
    """Test all credentials with Microsoft, or only the one that the form contains as ``credential``."""
    user, app = managed_app(request, pk)
    only = None
    if request.POST.get("credential"):
        number = request.POST["credential"]
        only = get_object_or_404(
            app.credentials, pk=number if number.isdecimal() and len(number) < 20 else 0, retired_at=None
        )
    with errors_as_messages(request, level=messages.ERROR):
        trials = credential_checks.verify(app, actor=user, credential=only)
        for trial in trials:
            if trial.verdict is not None:
                messages.warning(request, f"Microsoft doesn't accept {trial.credential}: {trial.verdict.cause}")
        messages.success(request, f"Microsoft accepts {app}.")
        if any(credential_expiry.may_read(trial.roles) for trial in trials):
            _read_expiries(request, app, user)
    return redirect("app", pk=pk)


def _read_expiries(request: HttpRequest, app: AppRegistration, user: User) -> None:
    """Read the expiry dates from Entra, and show messages about the result.

    The application needs permission to read itself.
    """
    try:
        result = recorded_expiry.read(app, actor=user, now=timezone.now())
    except PortalError as error:
        messages.warning(request, f"Expiration dates couldn't be read from Entra. {error}")
        return
    for credential in result.unlisted:
        messages.warning(
            request, f"{credential} is no longer listed in Entra, so Microsoft will reject it. Add another credential."
        )
    for credential in result.accepted:
        messages.success(request, f"Microsoft accepts {credential}. It's now used first.")


@require_safe
def script(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the script that updates the app registration in Entra to match the portal."""
    _, app = managed_app(request, pk)
    return _script_page(request, app)


def _script_page(request: HttpRequest, app: AppRegistration | None) -> HttpResponse:
    query = request.GET.copy()
    query.pop("script", None)
    form = ScriptForm(query if "tenant" in query else _script_defaults(app))
    text = ""
    if form.is_valid():
        try:
            text = az_script.setup_script(_plan(form, app))
        except PortalError as error:
            form.add_error(None, str(error))
    elif "tenant" not in query:
        form.errors.clear()
    if text and "download" in request.GET:
        name = slugify(form.cleaned_data["name"]) or "app"
        headers = {"Content-Disposition": f'attachment; filename="register-{name}.sh"'}
        return HttpResponse(text, content_type="text/x-shellscript; charset=utf-8", headers=headers)
    query["download"] = "1"
    if app is None:
        query["script"] = "1"
    context = {"form": form, "app": app, "text": text, "download_url": f"?{query.urlencode()}"}
    return render(request, "apps/script.html", context)


def _script_defaults(app: AppRegistration | None) -> dict[str, Any]:
    if app is None:
        return {
            "name": "Connection portal",
            "tenant": Tenant.objects.values_list("pk", flat=True).first(),
            "audience": AppRegistration.Audience.SINGLE,
            "types": [capabilities.DELEGATED],
            "capabilities": ["mail.read"],
            "credential": "secret",
        }
    return {
        "name": app.name,
        "tenant": app.tenant_id,
        "audience": app.audience,
        "types": [kind for kind in (capabilities.DELEGATED, capabilities.APP_ONLY) if app.allows(kind)],
        "capabilities": app.default_capabilities,
        "credential": "none",
    }


def _plan(form: ScriptForm, app: AppRegistration | None) -> az_script.SetupPlan:
    data = form.cleaned_data
    tenant: Tenant = app.tenant if app else data["tenant"]
    cloud = clouds.CLOUDS.get(tenant.environment)
    if cloud is None:
        raise InvalidInput("The environment of this tenant isn't configured in this portal.", field="tenant")
    waiting = [row for row in credential_views.rows(app, timezone.now()) if row.is_waiting] if app else []
    trust = next((row.trust for row in waiting if row.trust), None)
    return az_script.SetupPlan(
        cloud=cloud,
        directory_id="" if tenant.is_shared_endpoint else tenant.directory_id,
        name=(app.name if app else "") or data["name"] or "Connection portal",
        audience=data["audience"],
        redirect_uris=[uri for _, uri in redirect_uris()],
        permissions=capabilities.permissions(data["capabilities"], data["types"]),
        client_id=app.client_id if app else "",
        creates_secret=data["credential"] == "secret",
        certificate=next((row.credential.certificate for row in waiting if row.certificate), ""),
        trust=(trust.issuer, trust.subject, trust.audience) if trust else None,
        grants_consent=data["consent"],
    )
