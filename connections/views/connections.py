from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import effective_status, pipeline, presentation, undo
from connections.access import permissions, querysets, roles
from connections.effective_status import EffectiveStatus
from connections.errors import ApprovalNeeded
from connections.forms.connections import CapabilitiesForm, ConnectionEditForm
from connections.microsoft import backends, capabilities, resources, selected_access
from connections.models import Connection, User
from connections.services.connections import connections, sign_in_links
from connections.services.connections import sign_in as sign_in_service
from connections.services.expiry import forecast as expiry_forecast
from connections.services.governance import violations
from connections.services.mailboxes import mailboxes, probes
from connections.services.policy import approvals as policy_approvals
from connections.services.policy import evaluate, next_steps, permission_drift
from connections.services.policy.next_steps import AWAITS_NEW_OWNER, Step
from connections.services.sharing import usage
from connections.services.tokens import scheduler
from connections.views import (
    approvals,
    bulk_actions,
    connection_charts,
    connection_list,
    consent_requests,
    list_pages,
    ownership_transfer,
    references,
    saved_views,
    shares,
    tags,
)
from connections.views.audit import history
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible
from connections.views.mailboxes import attached

RECENT_SIGN_IN = 600  # seconds after which the page explains possible errors of an unfinished sign-in
Status = Connection.Status
# Statuses in which the person may have seen an error on Microsoft's pages.
UNFINISHED = frozenset((Status.PENDING, Status.RECONNECT_NEEDED, Status.CONSENT_NEEDED, Status.BLOCKED))

# States in which an IT admin must act before a sign-in makes sense.
_OTHERS_FIRST = (EffectiveStatus.APP_REJECTED, *effective_status.AWAITING)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = connection_list.filters_of(request)
    sees_all = permissions.can_read_registry(user)
    matches = filters.matches() if sees_all else list_pages.as_one(filters.matches())
    connections = filters.narrow(querysets.visible_connections(user).prefetch_related("tags"))
    page = list_pages.page(request, connections, order=filters.order, matches=matches)
    context = {
        "page": page,
        "rows": _rows(page.items, user),
        "now": timezone.now(),
        "filters": filters,
        "sees_all": sees_all,
        "bulk": bulk_actions.choices(filters, user),
        "menus": connection_list.menus(user, page.items),
        **connection_list.layout(user),
        **saved_views.panel(user, connection_list.PAGE, filters.query_string),
    }
    return render(request, "connections/list.html", context)


def _rows(connections: list[Connection], user: User) -> list[dict[str, Any]]:
    """List each connection with its next expiration, permission drift and policy violations."""
    effective_status.load(connections)
    forecasts = expiry_forecast.next_expirations(connections, now=timezone.now(), reader=user)
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


def render_with_permissions(
    request: HttpRequest, template: str, form: CapabilitiesForm, context: dict[str, Any], *also: Form
) -> HttpResponse:
    """Render the form with the permissions that it currently requires. A preview shows them even if fields have errors.

    ``also`` are other forms on the page, whose errors also result in status 422.
    """
    is_preview, has_errors = "preview" in request.POST, any(each.errors for each in (form, *also))
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
    steps = next_steps.possible_steps(user, connection, now=now)
    granted, kind = connection.granted | frozenset(by_exchange), connection.authentication_type
    access_ends_at = expiry_forecast.access_ends(user, [connection]).get(connection.pk)
    outlook = expiry_forecast.summarize(connection, now=now, access_ends_at=access_ends_at)
    context = {
        "connection": connection,
        "abilities": [
            {
                "capability": capability,
                "possible": possible,
                "missing": missing,
                "reason": capability.no_delegated if connection.is_delegated else capability.no_application,
                "note": _note(capability.note, connection),
            }
            for capability, possible, missing in capabilities.can(connection.capabilities, granted, kind)
        ],
        "missing_permissions": connections.missing_permissions(connection) if connection.connected_at else (),
        "selected_access": _selected_access(connection),
        "sign_in_lost": started_at and (now - started_at).total_seconds() > RECENT_SIGN_IN,
        "redirect_uri": settings.PORTAL_URL + reverse("social:complete", args=[backends.MicrosoftConnect.name]),
        "outlook": outlook,
        "is_owner": permissions.owns(user, connection),
        "drift": permission_drift.find_drift(connection, elsewhere=by_exchange),
        "mailboxes_by_exchange": by_exchange,
        "granted": sorted(connection.granted),
        "resources": _resources(connection, may_sign_in=Step.SIGN_IN in steps),
        "now": now,
        "asking": consent_requests.panel(user, connection),
        "naming": references.panel(user, connection),
        "events": history(user, connection),
        **_offers(connection, steps),
        "allowed": permissions.allowed_actions(user, connection),
        **tags.panel(connection),
        **attached(user, connection),
        **shares.panel(user, connection, steps=steps),
        **ownership_transfer.waiting(user, connection),
        **approvals.panel(connection, steps=steps),
        "life": connection_charts.life(user, connection, now),
        "expirations": connection_charts.expirations(outlook, now),
        **connection_charts.use(user, connection, now),
    }
    return render(request, "connections/detail.html", context)


def _resources(connection: Connection, *, may_sign_in: bool) -> list[dict[str, Any]]:
    """Return the resources that the connection has tokens for; [] if that is only Microsoft Graph."""
    others = list(connection.resource_tokens.all())
    if connection.connected_at is None or (not others and connection.resource == resources.GRAPH):
        return []
    is_active = effective_status.of(connection) == EffectiveStatus.ACTIVE
    own = {"key": connection.resource, "label": resources.label(connection.resource), "is_own": True}
    return [
        own | {"is_ready": is_active, "problem_label": presentation.connection_badge(connection).word},
        *(
            {
                "key": row.resource,
                "label": resources.label(row.resource),
                "is_ready": is_active and row.refreshed_at is not None and not row.problem_code,
                "problem_label": row.get_problem_status_display(),
                "problem_cause": row.problem_cause,
                "problem_action": row.problem_action,
                "may_grant": may_sign_in and is_active,
            }
            for row in others
        ),
    ]


def _note(note: str, connection: Connection) -> str:
    """Return a capability's note; "" if the note is about the other type of connection."""
    return "" if note.startswith("For app-only connections") == connection.is_delegated else note


def _selected_access(connection: Connection) -> list[tuple[str, str]]:
    """Return the commands that grant access to single sites or files, if the connection's permissions require this."""
    app, required = connection.app_registration, permission_drift.required_permissions(connection)
    return selected_access.commands(
        required, environment=app.tenant.environment, client_id=app.client_id, app_name=app.name
    )


def _offers(connection: Connection, steps: frozenset[Step]) -> dict[str, Any]:
    """Return what the page offers, based on the connection's status and the steps that are possible."""
    status, effective = connection.status, effective_status.of(connection)
    return {
        "is_active": effective == EffectiveStatus.ACTIVE,
        "is_disabled": status == Status.DISABLED,
        "explains_errors": connection.is_delegated
        and (connection.sign_in_started_at is not None or status in UNFINISHED),
        "used_link": sign_in_links.last_used(connection),
        "awaits_new_owner": connection.status_code == AWAITS_NEW_OWNER,
        "must_reconnect": status in (Status.RECONNECT_NEEDED, Status.PENDING),
        "may_check": Step.CHECK in steps,
        "offers_sign_in": Step.SIGN_IN in steps and effective not in _OTHERS_FIRST,
        "offers_link": Step.SEND_SIGN_IN_LINK in steps and effective not in _OTHERS_FIRST,
        "may_enable": Step.ENABLE in steps,
        "may_disable": Step.DISABLE in steps,
        "may_keep_disabled": Step.KEEP_DISABLED in steps,
        "may_transfer": Step.TRANSFER in steps,
        "may_remove": Step.REMOVE in steps,
    }


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Change the name and capabilities. Additional permissions are granted at the next sign-in."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only the owner can change this connection.")
    policies = evaluate.load_policies().of(connection.app_registration)
    form = ConnectionEditForm(connection, request.POST or None, policies=policies)
    may_sign_in = connection.is_delegated and connection.status != Status.DISABLED
    lacks_permissions: bool | None = None
    if "preview" not in request.POST and form.is_valid():
        with errors_on(form):
            lacks_permissions = connections.change(connection, **form.cleaned_data, actor=user, now=timezone.now())
    if lacks_permissions is None:
        context = {"connection": connection, "may_sign_in": may_sign_in}
        return render_with_permissions(request, "connections/edit.html", form, context)
    waits = policy_approvals.open_request(connection) is not None
    if may_sign_in and not waits and "sign_in" in request.POST:
        return sign_in_at_microsoft(request, connection)
    _report_saved(request, connection, waits=waits, lacks_permissions=lacks_permissions)
    return redirect("connection", pk=pk)


def _report_saved(request: HttpRequest, connection: Connection, *, waits: bool, lacks_permissions: bool) -> None:
    if waits:
        messages.warning(request, "Saved. Your changes take effect after an IT admin has approved them.")
    elif not lacks_permissions:
        messages.success(request, "Saved.")
    elif connection.is_delegated:
        messages.warning(request, "Saved. Sign in again to grant the added permissions.")
    else:
        text = "Saved. An administrator needs to grant the added permissions in the app registration."
        messages.warning(request, text)


@require_POST
def add_mailbox_permission(request: HttpRequest, pk: int) -> HttpResponse:
    """Add the permission that the connection lacks for its shared mailboxes, and send the owner to Microsoft."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only the owner can change this connection.")
    with errors_as_messages(request):
        with transaction.atomic():  # so that a change by someone else in the meantime isn't undone
            connection = Connection.objects.select_for_update(no_key=True).get(pk=connection.pk)
            lacks_permissions = connections.change(
                connection,
                name=connection.name,
                chosen=mailboxes.capabilities_with_permission(connection),
                extra_scopes=connection.extra_scopes.split(),
                actor=user,
                now=timezone.now(),
            )
        if next_steps.may_sign_in(user, connection):
            return sign_in_at_microsoft(request, connection)
        waits = policy_approvals.open_request(connection) is not None
        _report_saved(request, connection, waits=waits, lacks_permissions=lacks_permissions)
    return redirect("connection", pk=pk)


@require_POST
def sign_in(request: HttpRequest, pk: int) -> HttpResponse:
    """Redirect the owner to Microsoft: for the first time, after access was lost, or to grant more permissions."""
    user = roles.current_user(request.user)
    return sign_in_at_microsoft(request, get_object_or_404(querysets.visible_connections(user), pk=pk))


def sign_in_at_microsoft(request: HttpRequest, connection: Connection) -> HttpResponse:
    try:
        sign_in_service.begin(connection, actor=roles.current_user(request.user), now=timezone.now())
    except ApprovalNeeded as error:
        return wait_for_approval(request, connection, error)
    # Sign in for one of the connection's other resources, if only that resource lacks consent.
    resource = request.POST.get("resource", "")
    if connection.status == Status.ACTIVE and connection.resource_tokens.filter(resource=resource).exists():
        return pipeline.to_microsoft(request, connection, resource=resource, walked=(resource,))
    return pipeline.to_microsoft(request, connection)


def wait_for_approval(request: HttpRequest, connection: Connection, error: ApprovalNeeded) -> HttpResponse:
    """Redirect to the connection's page, which shows the request for approval or offers to create one."""
    if policy_approvals.open_request(connection) is not None:
        messages.info(request, "Approval requested. You can sign in after an IT admin has approved.")
    else:
        messages.warning(request, str(error))
    return redirect("connection", pk=connection.pk)


@require_POST
def check(request: HttpRequest, pk: int) -> HttpResponse:
    """Refresh the connection's token and report the result."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    with errors_as_messages(request):
        connection = scheduler.check_now(connection, actor=user, now=timezone.now())
        if connection.is_blocked_by_app:
            messages.error(request, "Microsoft rejects the app registration, so this connection doesn't work.")
        elif connection.suspected_code:
            text = "Microsoft's response was unclear. The portal checks again in about a minute."
            messages.warning(request, text)
        elif connection.status == Status.ACTIVE:
            messages.success(request, "The connection works. Microsoft renewed the token.")
        else:
            messages.error(request, f"{connection.status_cause} {connection.status_action}")
    return redirect("connection", pk=pk)


@require_POST
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    was_disabled = connection.status == Status.DISABLED
    connections.disable(connection, actor=user, now=timezone.now())
    if not was_disabled:
        undo.offer(request, "connection_enable", kwargs={"pk": pk})
    return done(request, f"{connection} is disabled.", "connection", pk=pk)


@require_POST
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    connections.enable(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is enabled. Test the connection to check that it works.")
    return redirect("connection", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_disable(user, connection), action="Ask the owner or an IT admin.")
    if request.method == "POST":
        connections.remove(connection, actor=user, now=timezone.now())
        return done(request, f"{connection} was removed and its tokens were deleted.", "connections")
    context = {
        "connection": connection,
        "usage": usage.usage_of([pk], now=timezone.now())[pk],
        "naming": references.panel(user, connection),
    }
    return render(request, "connections/remove.html", context)
