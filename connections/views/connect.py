"""Creating a connection: the catalogue of Microsoft services, and the form for one of them."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import ApprovalNeeded, InvalidInput, MicrosoftRefused, NotAllowed, PolicyForbids
from connections.forms.connect import ConnectForm, NewAppForm, UsableCredentialForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.microsoft import connectors
from connections.microsoft.connectors import Connector
from connections.models import AppRegistration, Connection, Tenant, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections, directories, new_app
from connections.services.policy import evaluate
from connections.services.policy.evaluate import PolicySet
from connections.services.registry import credentials
from connections.views import connections as connection_views
from connections.views import list_pages, sign_in_links
from connections.views.app_registrations import redirect_uris
from connections.views.credentials import show_refusal
from connections.views.form_handling import errors_on

MOST_TENANTS = 20  # offered for choice; the app registration's page lists all of them
MOST_APPS = 100  # offered for choice; the page of each app registration leads to its form
TRUST_FIRST = "Create the federated credential in Entra with the values below. Then sign in on the connection's page."
# Where the form shows errors about fields that services call by other names.
_FIELDS = {"allows_app_only": "kind", "allows_delegated": "kind", "capabilities": "chosen", "tenant": "directory_id"}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the services to connect to. ``?app`` and ``?tenant`` are earlier choices, passed on in links."""
    user = roles.current_user(request.user)
    _require_can_connect(user)
    filters = list_pages.Filters(request, search=("label",), placeholder="Service or permission")
    chosen = {name: number for name in ("app", "tenant") if (number := _number(request.GET.get(name, "")))}
    context = {
        "connectors": connectors.find(filters.query),
        "filters": filters,
        "query": f"?{urlencode(chosen)}" if chosen else "",
    }
    return render(request, "connect/index.html", context)


def _require_can_connect(user: User) -> None:
    roles.require(
        permissions.can_connect(user),
        cause="Auditors have read-only access.",
        action="Ask a member to create the connection.",
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


@require_http_methods(["GET", "HEAD", "POST"])
def service(request: HttpRequest, connector: str) -> HttpResponse:
    """Create a connection to one service through an app registration. If it is delegated, continue with the sign-in."""
    user, chosen = roles.current_user(request.user), _connector(connector)
    _require_can_connect(user)
    policies = evaluate.load_policies()
    apps, closed = _usable_apps(user, policies)
    app = _chosen_app(request, user, apps, policies)
    may_bring = new_app.may_bring_app(user)
    if app is None:
        if may_bring and not apps:
            return redirect("connect_new_app", connector=chosen.key)
        context = {"connector": chosen, "closed": closed, "apps": apps}
        return render(request, "connect/no_app.html", context, status=422 if request.method == "POST" else 200)
    tenant = _chosen_tenant(request, app, policies)
    form = ConnectForm(
        chosen,
        app,
        request.POST or None,
        may_connect_app_only=permissions.can_connect_app_only(user),
        tenant=tenant,
        policies=policies.of(app),
    )
    if "preview" not in request.POST and form.is_valid():
        with errors_on(form):
            return _connect(request, user, app, tenant, form.cleaned_data)
    offered = apps if app in apps else [app, *apps]
    context = {"connector": chosen, "app": app, "apps": offered, "most": MOST_APPS, "may_bring": may_bring}
    context |= {"tenant": tenant, "tenants": _tenants(app, tenant), "is_personal": app.is_personal}
    return connection_views.render_with_permissions(request, "connect/service.html", form, context)


def _connector(key: str) -> Connector:
    if key not in connectors.CONNECTORS:
        raise Http404
    return connectors.CONNECTORS[key]


def _usable_apps(user: User, policies: PolicySet) -> tuple[list[AppRegistration], list[str]]:
    """Return the app registrations that the user can connect through, and why the policy rules out the others.

    Only MOST_APPS of them are considered. Those that Microsoft accepts come first.
    """
    candidates = list(querysets.connectable_app_registrations(user)[:MOST_APPS])
    reasons = {app: evaluate.why_closed(policies.of(app), app) for app in candidates}
    usable = sorted((app for app in candidates if not reasons[app]), key=lambda app: not app.is_ready)
    return usable, list(dict.fromkeys(filter(None, reasons.values())))


def _chosen_app(
    request: HttpRequest, user: User, apps: list[AppRegistration], policies: PolicySet
) -> AppRegistration | None:
    """Return the app registration to connect through.

    None if there is none, or if the form has been sent without choosing one of several. Raises Http404 or NotAllowed if
    the request contains one that cannot be used.
    """
    named = request.POST.get("app") or request.GET.get("app")
    if not named:
        return apps[0] if len(apps) == 1 or (apps and request.method != "POST") else None
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=_number(named))
    if not (app.allows_delegated or permissions.can_connect_app_only(user)):
        cause = f"{app} only supports app-only connections, which can access the whole tenant."
        raise NotAllowed(cause, action="Ask an IT admin.")
    if not permissions.can_connect_through(user, app):
        cause = f"Only the person who added {app} can connect through it."
        raise NotAllowed(cause, action="Choose another app registration.")
    return app


def _chosen_tenant(request: HttpRequest, app: AppRegistration, policies: PolicySet) -> Tenant:
    """Return the tenant to connect in, by default that of the app registration. Raises Http404 or PolicyForbids."""
    number = _number(request.POST.get("tenant") or request.GET.get("tenant") or str(app.tenant_id))
    tenant = app.tenant
    if number != app.tenant_id:
        tenant = get_object_or_404(app.consents.select_related("tenant"), tenant=number).tenant
    if closed := evaluate.why_closed(policies.of(app), app, tenant):
        raise PolicyForbids(closed, action="Choose another app registration, or ask an IT admin to change the policy.")
    return tenant


def _tenants(app: AppRegistration, chosen: Tenant) -> list[Tenant]:
    """Return the tenants to offer, with the chosen one first."""
    others = app.consents.exclude(tenant=chosen).select_related("tenant").order_by("tenant__name")[:MOST_TENANTS]
    return [chosen, *(consent.tenant for consent in others)]


def _connect(
    request: HttpRequest, user: User, app: AppRegistration, tenant: Tenant, data: dict[str, Any]
) -> HttpResponse:
    _require_link_possible(request, data, is_personal=app.is_personal)
    options: dict[str, Any] = {name: data[name] for name in ("name", "chosen", "extra_scopes", "reason")}
    options |= {"hosts": data.get("hosts"), "tenant": tenant, "actor": user, "now": timezone.now()}
    options |= directories.mailbox_options(tenant, data.get("mailboxes", ()), actor=user)
    if data["kind"] == AuthenticationType.AUTHORIZATION_CODE:
        return _continue(request, user, connections.start_delegated(app, **options))
    return _continue(request, user, app_only.connect(app, **options))


def _require_link_possible(request: HttpRequest, data: dict[str, Any], *, is_personal: bool) -> None:
    if "by_link" in request.POST and data["kind"] != AuthenticationType.AUTHORIZATION_CODE:
        raise InvalidInput("App-only connections don't have a sign-in, so there is no sign-in link.", field="kind")
    if "by_link" in request.POST and is_personal:
        raise InvalidInput("Nobody else can sign in with your own app registration.", field="kind")


def _continue(request: HttpRequest, user: User, connection: Connection) -> HttpResponse:
    """Return the next page for a new connection: the Microsoft sign-in, its sign-in link, or the connection's page."""
    if connection.is_delegated and "by_link" in request.POST:
        try:
            return sign_in_links.show_new(request, user, connection)
        except ApprovalNeeded as error:
            return connection_views.wait_for_approval(request, connection, error)
    if connection.is_delegated:
        return connection_views.sign_in_at_microsoft(request, connection)
    if connection.status == Connection.Status.PENDING:
        messages.info(request, f"{connection} is awaiting approval by another IT admin.")
        return redirect("connection", pk=connection.pk)
    connections.probe_mailboxes(connection, actor=user, now=timezone.now())
    if connection.status == Connection.Status.ACTIVE:
        messages.success(request, f"{connection} is connected.")
    else:
        messages.warning(request, f"{connection} is saved, but can't be used yet. {connection.status_cause}")
    return redirect("connection", pk=connection.pk)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add_app(request: HttpRequest, connector: str) -> HttpResponse:
    """Create a connection to one service through an app registration that is added in the same form."""
    user, chosen = roles.current_user(request.user), _connector(connector)
    _require_can_connect(user)
    roles.require(
        new_app.may_bring_app(user),
        cause="Only IT admins can add app registrations.",
        action="Choose an app registration, or ask an IT admin to add yours.",
    )
    form = NewAppForm(
        chosen,
        request.POST or None,
        may_connect_app_only=permissions.can_connect_app_only(user),
        policies=evaluate.load_policies().of(AppRegistration()),
    )
    is_preview = "preview" in request.POST
    may_federate = permissions.can_manage_registry(user)
    credential = UsableCredentialForm(
        None if is_preview else request.POST or None, request.FILES or None, may_federate=may_federate
    )
    if not is_preview and form.is_valid() & credential.is_valid():
        with errors_on(form):
            try:
                return _connect_new(request, user, form.cleaned_data, credential.cleaned_data)
            except MicrosoftRefused as error:
                error.field = _FIELDS.get(error.field, error.field)
                show_refusal(error, credential, form)
            except InvalidInput as error:
                error.field = _FIELDS.get(error.field, error.field)
                raise
    context = {
        "connector": chosen,
        "credential": credential,
        "redirect_uris": redirect_uris(),
        "is_personal": not may_federate,
        "has_apps": querysets.connectable_app_registrations(user).exists(),
        "service_url": reverse("connect_service", args=[chosen.key]),
    }
    return connection_views.render_with_permissions(request, "connect/new_app.html", form, context, credential)


def _connect_new(request: HttpRequest, user: User, data: dict[str, Any], secret: dict[str, Any]) -> HttpResponse:
    _require_link_possible(request, data, is_personal=not permissions.can_manage_registry(user))
    new = new_app.NewApp(
        data["environment"],
        data["directory_id"],
        data["client_id"],
        data["audience"],
        credentials.credential_from_form(secret, name=data["app_name"]),
        name=data["app_name"],
        tenant_name=data["tenant_name"],
    )
    options = new_app.ConnectionOptions(
        AuthenticationType(data["kind"]),
        data["name"],
        data["chosen"],
        data["extra_scopes"],
        data.get("hosts", {}),
        data.get("mailboxes", ()),
        data["reason"],
    )
    connection = new_app.connect(new, options, actor=user, now=timezone.now())
    if not connection.app_registration.is_ready:  # a federated credential, which must first be added in Entra
        messages.info(request, f"{connection} was saved. {TRUST_FIRST}")
        return redirect("app", pk=connection.app_registration_id)
    return _continue(request, user, connection)
