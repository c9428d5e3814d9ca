from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from social_core.actions import do_auth
from social_django.utils import load_backend, load_strategy

from connections.access import permissions, querysets, roles
from connections.errors import ApprovalNeeded, NotAllowed, PolicyForbids
from connections.forms.connections import ConnectForm, ConnectionEditForm
from connections.microsoft import backends, capabilities
from connections.models import AppRegistration, Connection, SharedMailbox, SignInLink, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections
from connections.services.connections import sign_in as sign_in_service
from connections.services.expiry import forecast as expiry_forecast
from connections.services.governance import violations
from connections.services.mailboxes import mailboxes, probes
from connections.services.people.ownership_transfer import CODE as AWAITS_NEW_OWNER
from connections.services.policy import approvals as policy_approvals
from connections.services.policy import evaluate, permission_drift
from connections.services.sharing import usage
from connections.services.tokens import scheduler
from connections.views import approvals, consent_requests, list_pages, ownership_transfer, shares
from connections.views.audit import history
from connections.views.form_handling import errors_as_messages, errors_on, get_visible
from connections.views.mailboxes import attached

RECENT_SIGN_IN = 600  # seconds after which the page explains why an unfinished sign-in may have failed
Status = Connection.Status


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("name", "account_username", "app_registration__name", "owner__username"),
        placeholder="Name, account, app registration or owner",
        choices=(
            list_pages.Choice("status", "Status", Status.choices, list_pages.by("status")),
            list_pages.Choice("type", "Type", AuthenticationType.choices, list_pages.by("authentication_type")),
        ),
    )
    page = list_pages.page(request, filters.apply(querysets.visible_connections(user)))
    context = {
        "page": page,
        "rows": _rows(page.items),
        "now": timezone.now(),
        "filters": filters,
        "sees_all": permissions.can_read_registry(user),
    }
    return render(request, "connections/list.html", context)


def _rows(connections: list[Connection]) -> list[dict[str, Any]]:
    """List each connection with its next expiration, permission drift and policy violations."""
    forecasts = expiry_forecast.next_expirations(connections, now=timezone.now())
    by_exchange = probes.granted_by_exchange(connections)
    violating = violations.violations_by_connection(evaluate.load_policies(), connections)
    return [
        {
            "connection": connection,
            "forecast": forecasts.get(connection.pk),
            "drift": permission_drift.find_drift(connection, elsewhere=by_exchange.get(connection.pk, ())),
            "breaks_policy": connection.pk in violating,
        }
        for connection in connections
    ]


@require_safe
def choose(request: HttpRequest) -> HttpResponse:
    """Choose the app registration to connect through. If there is only one, it is chosen automatically."""
    user = roles.current_user(request.user)
    _require_can_connect(user)
    apps = [app for app in querysets.visible_app_registrations(user) if _is_usable(app, user)]
    if len(apps) == 1:
        return redirect("connection_add", app_pk=apps[0].pk)
    policies = evaluate.load_policies()
    offers = [(app, evaluate.why_closed(policies.of(app), app)) for app in apps]
    return render(request, "connections/choose.html", {"offers": offers})


def _require_can_connect(user: User) -> None:
    roles.require(permissions.can_connect(user), cause="Auditors look, they do not connect.", action="Ask a member.")


def _is_usable(app: AppRegistration, user: User) -> bool:
    return app.allows_delegated or (app.allows_app_only and permissions.can_connect_app_only(user))


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, app_pk: int) -> HttpResponse:
    """Choose the capabilities, then sign in to Microsoft (delegated) or connect at once (app-only)."""
    user = roles.current_user(request.user)
    _require_can_connect(user)
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=app_pk)
    if not _is_usable(app, user):
        raise NotAllowed(f"{app} is for app-only connections, which reach the whole tenant.", action="Ask an IT admin.")
    policies = evaluate.load_policies().of(app)
    if closed := evaluate.why_closed(policies, app):
        raise PolicyForbids(closed, action="Choose another app registration, or ask an IT admin to change the policy.")
    form = ConnectForm(app, request.POST or None, app_only=permissions.can_connect_app_only(user), policies=policies)
    if "preview" not in request.POST and form.is_valid():
        with errors_on(form):
            return _connect(request, user, app, form.cleaned_data)
    return _render_form(request, "connections/add.html", form, {"app": app})


def _connect(request: HttpRequest, user: User, app: AppRegistration, data: dict[str, Any]) -> HttpResponse:
    known = {mailbox.address.lower(): mailbox for mailbox in app.tenant.shared_mailboxes.all()}
    new_mailboxes: list[SharedMailbox] = [
        known.get(address.lower()) or mailboxes.register(app.tenant, address=address, display_name="", actor=user)
        for address in data["new_mailboxes"]
    ]
    options: dict[str, Any] = {name: data[name] for name in ("name", "chosen", "extra_scopes", "reason")}
    options |= {"shared_mailboxes": [*data["shared_mailboxes"], *new_mailboxes], "actor": user, "now": timezone.now()}
    if data["kind"] == AuthenticationType.AUTHORIZATION_CODE:
        return _sign_in_at_microsoft(request, connections.start_delegated(app, **options))
    connection = app_only.connect(app, **options)
    if connection.status == Status.PENDING:
        messages.info(request, f"{connection} waits for the approval of another IT admin.")
        return redirect("connection", pk=connection.pk)
    connections.probe_mailboxes(connection, actor=user, now=timezone.now())
    if connection.status == Status.ACTIVE:
        messages.success(request, f"{connection} is connected.")
    else:
        messages.warning(request, f"{connection} is saved, but cannot be used yet. {connection.status_cause}")
    return redirect("connection", pk=connection.pk)


def _render_form(
    request: HttpRequest, template: str, form: ConnectForm | ConnectionEditForm, context: dict[str, Any]
) -> HttpResponse:
    """Render the form with the permissions it currently requires. A preview shows them even if fields have errors."""
    is_preview, has_errors = "preview" in request.POST, bool(form.errors)
    context = {**context, "form": form, "permissions": form.permissions()}
    if is_preview and getattr(request, "htmx", False):
        return render(request, "connections/_permissions.html", context)
    return render(request, template, context, status=422 if has_errors and not is_preview else 200)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    now = timezone.now()
    started_at = connection.sign_in_started_at
    by_exchange = probes.granted_by_exchange([connection]).get(connection.pk, ())
    approval = approvals.panel(user, connection)
    granted, kind = connection.granted | frozenset(by_exchange), connection.authentication_type
    context = {
        "connection": connection,
        "abilities": [
            {
                "capability": capability,
                "possible": possible,
                "missing": missing,
                "reason": capability.no_delegated if connection.is_delegated else capability.no_application,
            }
            for capability, possible, missing in capabilities.can(connection.capabilities, granted, kind)
        ],
        "missing_permissions": connections.missing_permissions(connection) if connection.connected_at else (),
        "sign_in_lost": started_at and (now - started_at).total_seconds() > RECENT_SIGN_IN,
        "redirect_uri": settings.PORTAL_URL + reverse("social:complete", args=[backends.MicrosoftConnect.name]),
        "outlook": expiry_forecast.summarize(connection, now=now),
        "drift": permission_drift.find_drift(connection, elsewhere=by_exchange),
        "mailboxes_by_exchange": by_exchange,
        "now": now,
        "asking": consent_requests.panel(user, connection),
        "events": history(user, connection),
        **_offers(user, connection, may_sign_in=approval["may_sign_in"]),
        **attached(user, connection),
        **shares.panel(user, connection),
        **ownership_transfer.waiting(user, connection),
        **approval,
        "fetches": list(connection.fetches.values("key_name", "owner_name", "minute", "address", "count")[:10]),
    }
    return render(request, "connections/detail.html", context)


def _offers(user: User, connection: Connection, *, may_sign_in: bool) -> dict[str, Any]:
    """Return what the page offers this person, given the connection's status."""
    allowed = permissions.allowed_actions(user, connection)
    status = connection.status
    is_disabled = status == Status.DISABLED
    awaits_new_owner = connection.status_code == AWAITS_NEW_OWNER
    return {
        "allowed": allowed,
        "is_active": status == Status.ACTIVE,
        "is_disabled": is_disabled,
        "awaits_new_owner": awaits_new_owner,
        "may_check": allowed["check"] and connection.connected_at and not is_disabled and not awaits_new_owner,
        "offers_sign_in": allowed["reconnect"]
        and connection.is_delegated
        and may_sign_in
        and (not is_disabled or connection.status_code == "policy"),
        "must_reconnect": status in (Status.RECONNECT_NEEDED, Status.PENDING),
        "may_enable": is_disabled and allowed["enable"],
    }


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change the name and capabilities; new permissions are granted at the next sign-in."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only its owner can change it.")
    policies = evaluate.load_policies().of(connection.app_registration)
    form = ConnectionEditForm(connection, request.POST or None, policies=policies)
    if "preview" not in request.POST and form.is_valid():
        with errors_on(form):
            lacks_permissions = connections.change(connection, **form.cleaned_data, actor=user, now=timezone.now())
            if policy_approvals.open_request(connection) is not None:
                text = "Saved. An IT admin is asked to approve it; until then it goes on as it was."
                messages.warning(request, text)
            elif not lacks_permissions:
                messages.success(request, "Saved.")
            elif connection.is_delegated:
                messages.warning(request, "Saved. Sign in again, so that Microsoft grants what was added.")
            else:
                text = "Saved. An administrator must grant what was added; see the app registration."
                messages.warning(request, text)
            return redirect("connection", pk=pk)
    return _render_form(request, "connections/edit.html", form, {"connection": connection})


@require_POST
def sign_in(request: HttpRequest, pk: int) -> HttpResponse:
    """Send the owner to Microsoft: the first time, after access was lost, or to grant more permissions."""
    user = roles.current_user(request.user)
    return _sign_in_at_microsoft(request, get_object_or_404(querysets.visible_connections(user), pk=pk))


def _sign_in_at_microsoft(request: HttpRequest, connection: Connection) -> HttpResponse:
    try:
        sign_in_service.begin(connection, actor=roles.current_user(request.user), now=timezone.now())
    except ApprovalNeeded as error:
        # The connection's page shows the request, or offers to create one.
        if policy_approvals.open_request(connection) is not None:
            messages.info(request, "An IT admin is asked to approve it. You can sign in as soon as that is done.")
        else:
            messages.warning(request, str(error))
        return redirect("connection", pk=connection.pk)
    return redirect_to_microsoft(request, connection)


def redirect_to_microsoft(request: HttpRequest, connection: Connection, link: SignInLink | None = None) -> HttpResponse:
    """Start the OAuth sign-in for a connection; ``link`` is the sign-in link that was followed, if any."""
    strategy = load_strategy(request)
    strategy.connection, strategy.link = connection, link
    name = backends.MicrosoftConnect.name
    backend = load_backend(strategy, name, reverse("social:complete", args=[name]))
    response: HttpResponse = do_auth(backend, user=request.user)
    return response


@require_POST
def check(request: HttpRequest, pk: int) -> HttpResponse:
    """Refresh the connection's token now and report the result."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    with errors_as_messages(request):
        connection = scheduler.check_now(connection, actor=user, now=timezone.now())
        if connection.app_registration.rejected_at:
            messages.error(request, "Microsoft rejects the app registration, so this connection waits for it.")
        elif connection.suspected_code:
            text = "Microsoft's answer was not clear. The portal asks again in about a minute before it says more."
            messages.warning(request, text)
        elif connection.status == Status.ACTIVE:
            messages.success(request, "Microsoft has just renewed its token: the connection works.")
        else:
            messages.error(request, f"{connection.status_cause} {connection.status_action}")
    return redirect("connection", pk=pk)


@require_POST
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    connections.disable(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is disabled.")
    return redirect("connection", pk=pk)


@require_POST
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    connections.enable(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is enabled. The next check tells whether its grant still lives.")
    return redirect("connection", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_disable(user, connection), action="Ask its owner or an IT admin.")
    if request.method == "POST":
        connections.remove(connection, actor=user, now=timezone.now())
        messages.success(request, f"{connection} and its tokens are deleted.")
        return redirect("connections")
    context = {"connection": connection, "usage": usage.usage_of([pk], now=timezone.now())[pk]}
    return render(request, "connections/remove.html", context)
