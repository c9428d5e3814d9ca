"""Pages about approvals: what waits for an IT admin, the answer, and asking for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import NotAllowed, PortalError
from connections.forms.policy import ReasonForm
from connections.microsoft import capabilities
from connections.models import Approval, Connection, User
from connections.services.connections import app_only, connections
from connections.services.policy import approvals
from connections.views import list_pages
from connections.views.audit import history


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Requests this person may see, those that wait first."""
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("connection_name", "requested_by_name", "app_name"),
        placeholder="Connection, app registration or who asked",
        choices=(list_pages.Choice("state", "State", Approval.State.choices, list_pages.by("state")),),
    )
    page = list_pages.page(request, filters.apply(querysets.visible_approvals(user)), order=("-requested_at", "-pk"))
    context = {"page": page, "filters": filters, "may_decide": permissions.can_decide_approvals(user)}
    return render(request, "approvals/list.html", context)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One request: what exactly is asked, why, and the buttons of whoever may answer."""
    user = roles.current_user(request.user)
    return render(request, "approvals/detail.html", _context(user, _found(user, pk)))


def _found(user: User, pk: int) -> Approval:
    approvals = querysets.visible_approvals(user).select_related(
        "connection__app_registration__tenant", "connection__owner"
    )
    return get_object_or_404(approvals, pk=pk)


def _context(user: User, approval: Approval) -> dict[str, Any]:
    asked = [capabilities.CAPABILITIES[key] for key in approval.capabilities if key in capabilities.CAPABILITIES]
    seen = querysets.visible_connections(user).filter(pk=approval.connection_id or 0).exists()
    return {
        "approval": approval,
        "asked": asked,
        "before": (approval.before or {}).get("capabilities", []),
        "sees_connection": seen,
        "may_decide": approval.is_waiting and permissions.can_decide(user, approval),
        "is_own": approval.is_waiting
        and permissions.can_decide_approvals(user)
        and not permissions.can_decide(user, approval),
        "nobody_else": approval.is_waiting
        and not any(permissions.can_decide(it_admin, approval) for it_admin in querysets.it_admins()),
        "may_withdraw": approval.is_waiting and permissions.can_withdraw_approval(user, approval),
        "form": ReasonForm(),
        "events": history(user, approval) if permissions.can_read_audit(user) else [],
    }


@require_POST
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    """Let it happen; an app-only connection is connected at once."""
    user = roles.current_user(request.user)
    approval = _found(user, pk)
    refused = _decide(request, user, approval, approvals.approve)
    if refused is not None:
        return refused
    messages.success(request, f"{approval.connection_name} is approved.")
    if approval.is_app_only and approval.connection is not None:
        _connect(request, approval.connection, user)
    return redirect("approval", pk=pk)


def _connect(request: HttpRequest, connection: Connection, user: User) -> None:
    """Microsoft may say no for reasons of its own; the approval stands, and the connection's page has the button again."""
    try:
        made = app_only.finish(connection, actor=user, now=timezone.now())
    except PortalError as error:
        messages.warning(request, f"It is not connected yet. {error}")
        return
    connections.probe_mailboxes(made, actor=user, now=timezone.now())
    messages.success(request, f"{made} is connected.")


@require_POST
def decline(request: HttpRequest, pk: int) -> HttpResponse:
    """Refuse it, with a reason."""
    user = roles.current_user(request.user)
    approval = _found(user, pk)
    refused = _decide(request, user, approval, approvals.decline)
    if refused is not None:
        return refused
    messages.success(request, f"{approval.connection_name} is declined; {approval.requested_by_name} reads why.")
    return redirect("approval", pk=pk)


def _decide(
    request: HttpRequest, user: User, approval: Approval, service: Callable[..., object]
) -> HttpResponse | None:
    """Have a service decide with the reason that was given; the page with what is wrong if it does not."""
    form = ReasonForm(request.POST)
    form.is_valid()
    try:
        service(approval, reason=form.cleaned_data.get("reason", ""), actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        return _again(request, user, approval, form, error)
    return None


@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    """Take the request back."""
    user = roles.current_user(request.user)
    approval = _found(user, pk)
    try:
        approvals.withdraw(approval, actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        messages.warning(request, str(error))
    else:
        messages.success(request, "The request is withdrawn.")
    return redirect("approval", pk=pk)


def _again(request: HttpRequest, user: User, approval: Approval, form: ReasonForm, error: PortalError) -> HttpResponse:
    form.add_error(error.field if error.field in form.fields else None, str(error))
    context = _context(user, _found(user, approval.pk)) | {"form": form}
    return render(request, "approvals/detail.html", context, status=max(error.status, 422) if error.field else 409)


@require_http_methods(["GET", "HEAD", "POST"])
def ask(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask for what a connection lacks, with a reason."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only its owner can ask.")
    form = ReasonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = approvals.request_missing(
                connection, reason=form.cleaned_data["reason"], actor=user, now=timezone.now()
            )
        except NotAllowed:
            raise
        except PortalError as error:
            messages.warning(request, str(error))
            return redirect("connection", pk=pk)
        messages.success(request, "An IT admin is asked. You can go on as soon as it is approved.")
        return redirect("approval", pk=made.pk)
    _, reasons = approvals.evaluate_approval(connection)
    context = {"form": form, "connection": connection, "reasons": [reason.sentence for reason in reasons]}
    return render(request, "approvals/ask.html", context, status=422 if form.errors else 200)


@require_POST
def connect(request: HttpRequest, pk: int) -> HttpResponse:
    """Get the first token of an app-only connection that has its approval."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Ask its owner.")
    if not connection.is_delegated and connection.status == Connection.Status.PENDING:
        _connect(request, connection, user)
    return redirect("connection", pk=pk)


def waits(connection: Connection) -> bool:
    """Whether a request for it waits for an answer."""
    return approvals.open_request(connection) is not None


def panel(user: User, connection: Connection) -> dict[str, Any]:
    """Context of approvals/_panel.html: how the policy stands to this connection, and what can be done about it."""
    decision, reasons = approvals.evaluate_approval(connection, connection.granted)
    newest = approvals.latest_request(connection)
    return {
        "policy_forbids": [reason.sentence for reason in decision.forbidden],
        "policy_wants": [reason.sentence for reason in reasons],
        "approval": newest,
        "may_ask": permissions.can_reconnect(user, connection),
        "may_sign_in": approvals.may_sign_in(connection),
        "may_finish": not connection.is_delegated
        and connection.status == Connection.Status.PENDING
        and not reasons
        and not decision.forbidden
        and permissions.can_reconnect(user, connection),
    }
