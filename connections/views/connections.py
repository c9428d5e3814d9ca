"""Pages about connections: list, connect, look, mend, switch off, remove."""

from __future__ import annotations

from dataclasses import dataclass
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
from connections.errors import ApprovalNeeded, NotAllowed, PolicyForbids, PortalError
from connections.forms.connections import ConnectForm, ConnectionEditForm
from connections.microsoft import backends, capabilities
from connections.models import AppRegistration, Connection, SharedMailbox, User
from connections.models.app_registrations import AuthenticationType
from connections.services.connections import app_only, connections
from connections.services.connections import sign_in as sign_in_service
from connections.services.expiry import forecast as expiry_forecast
from connections.services.governance import violations
from connections.services.mailboxes import mailboxes, probes
from connections.services.policy import evaluate, permission_drift
from connections.services.sharing import usage
from connections.services.tokens import scheduler
from connections.views import approvals, consent_requests, list_pages, ownership_transfer, shares
from connections.views.audit import history
from connections.views.mailboxes import attached

RECENT_SIGN_IN = 600  # seconds after which a sign-in that has not come back is explained


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All connections this person may see."""
    user = roles.current_user(request.user)
    connections = querysets.visible_connections(user)
    filters = list_pages.Filters(
        request,
        search=("name", "account_username", "app_registration__name", "owner__username"),
        placeholder="Name, account, app registration or owner",
        choices=(
            list_pages.Choice("status", "Status", Connection.Status.choices, list_pages.by("status")),
            list_pages.Choice("type", "Type", AuthenticationType.choices, list_pages.by("authentication_type")),
        ),
    )
    page = list_pages.page(request, filters.apply(connections))
    context = {
        "page": page,
        "rows": _rows(page.items),
        "now": timezone.now(),
        "filters": filters,
        "sees_all": permissions.can_read_registry(user),
    }
    return render(request, "connections/list.html", context)


@dataclass(frozen=True, slots=True)
class Row:
    """One connection of the list: when it will stop by itself, whether its permissions differ, whether it may be so."""

    connection: Connection
    forecast: expiry_forecast.Forecast | None
    drift: permission_drift.Drift
    breaks_policy: bool


def _rows(connections: list[Connection]) -> list[Row]:
    ends = expiry_forecast.next_expirations(connections, now=timezone.now())
    kept = probes.granted_by_exchange(connections)
    broken = violations.violations_by_connection(evaluate.load_policies(), connections)
    return [
        Row(
            connection,
            ends.get(connection.pk),
            permission_drift.find_drift(connection, elsewhere=kept.get(connection.pk, ())),
            connection.pk in broken,
        )
        for connection in connections
    ]


@require_safe
def choose(request: HttpRequest) -> HttpResponse:
    """Choose the app registration to connect through; with only one, go straight on."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_connect(user), cause="Auditors look, they do not connect.", action="Ask a member.")
    apps = [app for app in querysets.visible_app_registrations(user) if _usable(app, user)]
    if len(apps) == 1:
        return redirect("connection_add", app_pk=apps[0].pk)
    rules = evaluate.load_policies()
    offers = [Offer(app, evaluate.why_closed(rules.of(app), app)) for app in apps]
    return render(request, "connections/choose.html", {"offers": offers})


@dataclass(frozen=True, slots=True)
class Offer:
    """An app registration one could connect through; ``closed`` says why the policy allows nothing through it."""

    app: AppRegistration
    closed: str


def _usable(app: AppRegistration, user: User) -> bool:
    return app.allows_delegated or (app.allows_app_only and permissions.can_connect_app_only(user))


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, app_pk: int) -> HttpResponse:
    """Choose what the connection is for, then sign in at Microsoft (delegated) or connect at once (app-only)."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_connect(user), cause="Auditors look, they do not connect.", action="Ask a member.")
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=app_pk)
    if not _usable(app, user):
        raise NotAllowed(f"{app} is for app-only connections, which reach the whole tenant.", action="Ask an IT admin.")
    rules = evaluate.load_policies().of(app)
    if closed := evaluate.why_closed(rules, app):
        raise PolicyForbids(closed, action="Choose another app registration, or ask an IT admin to change the policy.")
    form = ConnectForm(app, request.POST or None, app_only=permissions.can_connect_app_only(user), rules=rules)
    if request.method == "POST" and "preview" in request.POST:
        return _preview(request, form, {"app": app})
    if request.method == "POST" and form.is_valid():
        try:
            return _connect(request, user, app, form)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
    status = 422 if form.is_bound and form.errors else 200
    return render(request, "connections/add.html", {"form": form, "app": app, **_permissions(form)}, status=status)


def _connect(request: HttpRequest, user: User, app: AppRegistration, form: ConnectForm) -> HttpResponse:
    data = form.cleaned_data
    wishes: dict[str, Any] = {
        "name": data["name"],
        "chosen": data["chosen"],
        "extra_scopes": data["extra_scopes"],
        "shared_mailboxes": [*data["shared_mailboxes"], *_registered(app, data["new_mailboxes"], user)],
        "actor": user,
        "now": timezone.now(),
        "reason": data["reason"],
    }
    if data["kind"] == AuthenticationType.AUTHORIZATION_CODE:
        return _to_microsoft(request, connections.start_delegated(app, **wishes))
    made = app_only.connect(app, **wishes)
    if made.status == Connection.Status.PENDING:
        messages.info(request, f"{made} waits for the approval of another IT admin.")
        return redirect("connection", pk=made.pk)
    connections.probe_mailboxes(made, actor=user, now=timezone.now())
    if made.status == Connection.Status.ACTIVE:
        messages.success(request, f"{made} is connected.")
    else:
        messages.warning(request, f"{made} is saved, but cannot be used yet. {made.status_cause}")
    return redirect("connection", pk=made.pk)


def _registered(app: AppRegistration, addresses: list[str], user: User) -> list[SharedMailbox]:
    known = {mailbox.address.lower(): mailbox for mailbox in app.tenant.shared_mailboxes.all()}
    return [
        known.get(address.lower()) or mailboxes.register(app.tenant, address=address, display_name="", actor=user)
        for address in addresses
    ]


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Everything about one connection: its state and who must act, what it can do, its mailboxes, its history."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    started = connection.sign_in_started_at
    kept = probes.granted_by_exchange([connection]).get(connection.pk, ())
    context = {
        "connection": connection,
        "allowed": permissions.allowed_actions(user, connection),
        "abilities": _abilities(connection, kept),
        "lacking": connections.missing_permissions(connection) if connection.connected_at else (),
        "started_and_lost": started and (timezone.now() - started).total_seconds() > RECENT_SIGN_IN,
        "redirect_uri": redirect_uri(),
        "outlook": expiry_forecast.summarize(connection, now=timezone.now()),
        "drift": permission_drift.find_drift(connection, elsewhere=kept),
        "mailboxes_by_exchange": kept,
        "now": timezone.now(),
        "asking": consent_requests.panel(user, connection),
        "events": history(user, connection),
        **attached(user, connection),
        **shares.panel(user, connection),
        **ownership_transfer.waiting(user, connection),
        **approvals.panel(user, connection),
        "fetches": list(connection.fetches.values("key_name", "owner_name", "minute", "address", "count")[:10]),
    }
    return render(request, "connections/detail.html", context)


def _abilities(connection: Connection, kept: tuple[str, ...]) -> list[dict[str, Any]]:
    app_only = not connection.is_delegated
    return [
        {
            "capability": found,
            "possible": possible,
            "missing": missing,
            "reason": found.no_application if app_only else found.no_delegated,
        }
        for found, possible, missing in capabilities.can(
            connection.capabilities, connection.granted | frozenset(kept), connection.authentication_type
        )
    ]


def redirect_uri() -> str:
    """The redirect URI of connections, exactly as it must be registered in Entra."""
    return str(settings.PORTAL_URL) + reverse("social:complete", args=[backends.MicrosoftConnect.name])


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change name and capabilities; what was added is granted at the next sign-in."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only its owner can change it.")
    rules = evaluate.load_policies().of(connection.app_registration)
    form = ConnectionEditForm(connection, request.POST or None, rules=rules)
    context = {"form": form, "connection": connection}
    if request.method == "POST" and "preview" in request.POST:
        return _preview(request, form, context)
    if request.method == "POST" and form.is_valid():
        try:
            lacks = connections.change(connection, **form.cleaned_data, actor=user, now=timezone.now())
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            _say_changed(request, connection, lacks=lacks, waits=approvals.waits(connection))
            return redirect("connection", pk=pk)
    status = 422 if form.is_bound and form.errors else 200
    return render(request, "connections/edit.html", {**context, **_permissions(form)}, status=status)


def _say_changed(request: HttpRequest, connection: Connection, *, lacks: bool, waits: bool) -> None:
    if waits:
        messages.warning(request, "Saved. An IT admin is asked to approve it; until then it goes on as it was.")
    elif not lacks:
        messages.success(request, "Saved.")
    elif connection.is_delegated:
        messages.warning(request, "Saved. Sign in again, so that Microsoft grants what was added.")
    else:
        messages.warning(request, "Saved. An administrator must grant what was added; see the app registration.")


def _permissions(form: ConnectForm | ConnectionEditForm) -> dict[str, Any]:
    return {"permissions": form.permissions()}


def _preview(request: HttpRequest, form: ConnectForm | ConnectionEditForm, context: dict[str, Any]) -> HttpResponse:
    """Work the permissions out for what is chosen just now; nothing is saved."""
    form.is_valid()
    if getattr(request, "htmx", False):
        return render(request, "connections/_permissions.html", _permissions(form))
    page = "connections/edit.html" if "connection" in context else "connections/add.html"
    return render(request, page, {**context, "form": form, **_permissions(form)})


@require_POST
def sign_in(request: HttpRequest, pk: int) -> HttpResponse:
    """Send the owner to Microsoft: to finish, to mend, or to get more permissions. The id stays."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    return _to_microsoft(request, connection)


def _to_microsoft(request: HttpRequest, connection: Connection) -> HttpResponse:
    try:
        sign_in_service.begin(connection, actor=roles.current_user(request.user), now=timezone.now())
    except ApprovalNeeded as error:
        # Its page says how the request stands, and lets one ask.
        if approvals.waits(connection):
            messages.info(request, "An IT admin is asked to approve it. You can sign in as soon as that is done.")
        else:
            messages.warning(request, str(error))
        return redirect("connection", pk=connection.pk)
    strategy = load_strategy(request)
    strategy.connection = connection
    name = backends.MicrosoftConnect.name
    backend = load_backend(strategy, name, reverse("social:complete", args=[name]))
    answer: HttpResponse = do_auth(backend, user=request.user)
    return answer


@require_POST
def check(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask Microsoft now."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    try:
        connection = scheduler.check_now(connection, actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        messages.warning(request, str(error))
    else:
        _say_checked(request, connection)
    return redirect("connection", pk=pk)


def _say_checked(request: HttpRequest, connection: Connection) -> None:
    if connection.app_registration.rejected_at:
        messages.error(request, "Microsoft rejects the app registration, so this connection waits for it.")
    elif connection.suspected_code:
        messages.warning(
            request, "Microsoft's answer was not clear. The portal asks again in about a minute before it says more."
        )
    elif connection.status == Connection.Status.ACTIVE:
        messages.success(request, "Microsoft has just renewed its token: the connection works.")
    else:
        messages.error(request, f"{connection.status_cause} {connection.status_action}")


@require_POST
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    """Stop using it."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    connections.disable(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is disabled.")
    return redirect("connection", pk=pk)


@require_POST
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    """Use it again."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    connections.enable(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is enabled. The next check tells whether its grant still lives.")
    return redirect("connection", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Say what breaks, then delete it with its tokens."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_disable(user, connection), action="Ask its owner or an IT admin.")
    if request.method == "POST":
        name = str(connection)
        connections.remove(connection, actor=user, now=timezone.now())
        messages.success(request, f"{name} and its tokens are deleted.")
        return redirect("connections")
    used = usage.usage_of([pk], now=timezone.now())[pk]
    return render(request, "connections/remove.html", {"connection": connection, "usage": used})
