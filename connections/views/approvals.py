from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import NotAllowed, PortalError
from connections.forms.policy import ReasonForm
from connections.forms.requests import DecisionForm
from connections.microsoft import capabilities
from connections.models import Approval, Connection, User
from connections.services.connections import app_only, connections
from connections.services.policy import account_changes, approvals
from connections.services.policy.next_steps import Step
from connections.views.audit import history
from connections.views.form_handling import errors_as_messages, get_visible, render_form


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    return render(request, "approvals/detail.html", _context(*get_visible(request, _approvals, pk)))


def _approvals(user: User) -> QuerySet[Approval]:
    visible = querysets.visible_approvals(user)
    return visible.select_related("connection__app_registration__tenant", "connection__tenant", "connection__owner")


def _context(user: User, approval: Approval) -> dict[str, Any]:
    known = capabilities.CAPABILITIES
    waiting = approval.is_waiting
    may_decide = waiting and permissions.can_decide(user, approval)
    return {
        "approval": approval,
        "capabilities": [known[key] for key in approval.capabilities if key in known],
        "before": (approval.before or {}).get("capabilities", []),
        "sees_connection": querysets.visible_connections(user).filter(pk=approval.connection_id or 0).exists(),
        "may_decide": may_decide,
        "is_own": waiting and permissions.can_decide_approvals(user) and not may_decide,
        "nobody_else": waiting
        and not any(permissions.can_decide(it_admin, approval) for it_admin in querysets.it_admins()),
        "may_withdraw": waiting and permissions.can_withdraw_approval(user, approval),
        "form": DecisionForm(),
        "note": "If you approve, the portal requests the first token immediately."
        if approval.is_app_only
        else "If you approve, the requester can sign in to Microsoft.",
        "buttons": [("Approve", "", "")],
        "approve_url": reverse("approval_approve", args=[approval.pk]),
        "item": approval,
        "withdraw_url": reverse("approval_withdraw", args=[approval.pk]),
        "decline_url": reverse("approval_decline", args=[approval.pk]),
        "events": history(user, approval) if permissions.can_read_audit(user) else [],
    }


@require_POST
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve a request. If the connection is app-only, connect it immediately."""
    user, approval = get_visible(request, _approvals, pk)
    if refusal := _decide(request, user, approval, approvals.approve):
        return refusal
    messages.success(request, f"{approval.connection_name} is approved.")
    if approval.is_app_only and approval.connection is not None:
        _finish_app_only(request, approval.connection, user)
    return redirect("approval", pk=pk)


@require_POST
def decline(request: HttpRequest, pk: int) -> HttpResponse:
    user, approval = get_visible(request, _approvals, pk)
    if refusal := _decide(request, user, approval, approvals.decline):
        return refusal
    messages.success(
        request, f"{approval.connection_name} is declined. {approval.requested_by_name} can see your reason."
    )
    return redirect("approval", pk=pk)


def _decide(
    request: HttpRequest, user: User, approval: Approval, service: Callable[..., object]
) -> HttpResponse | None:
    """Call ``service`` with the reason from the form. If it raises an error, return the page that shows it."""
    form = DecisionForm(request.POST, declining=service is approvals.decline)
    if not form.is_valid():
        context = _context(user, approval) | {"form": form}
        return render(request, "approvals/detail.html", context, status=422)
    try:
        service(approval, reason=form.cleaned_data["reason"], actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error))
        context = _context(*get_visible(request, _approvals, approval.pk)) | {"form": form}
        return render(request, "approvals/detail.html", context, status=max(error.status, 422) if error.field else 409)
    return None


@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    user, approval = get_visible(request, _approvals, pk)
    with errors_as_messages(request):
        approvals.withdraw(approval, actor=user, now=timezone.now())
        messages.success(request, "Request was withdrawn.")
    return redirect("approval", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def ask(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_reconnect(user, connection), action="Only the owner can request approval.")
    form = ReasonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        with errors_as_messages(request):
            approval = approvals.request_missing(
                connection, reason=form.cleaned_data["reason"], actor=user, now=timezone.now()
            )
            messages.success(request, "Approval requested. We'll email you when it's decided.")
            return redirect("approval", pk=approval.pk)
        return redirect("connection", pk=pk)
    _, reasons = approvals.evaluate_approval(connection)
    context = {"connection": connection, "reasons": [reason.sentence for reason in reasons]}
    return render_form(request, "approvals/ask.html", form, context)


@require_POST
def finish(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_reconnect(user, connection), action="Ask the owner.")
    if not connection.is_delegated and connection.status == Connection.Status.PENDING:
        _finish_app_only(request, connection, user)
    return redirect("connection", pk=pk)


def _finish_app_only(request: HttpRequest, connection: Connection, user: User) -> None:
    # Microsoft can still refuse. The approval remains valid, and the user can retry on the connection's page.
    try:
        connection = app_only.finish(connection, actor=user, now=timezone.now())
    except PortalError as error:
        messages.warning(request, f"The connection isn't set up yet. {error}")
        return
    connections.probe_mailboxes(connection, actor=user, now=timezone.now())
    messages.success(request, f"{connection} is connected.")


def panel(connection: Connection, *, steps: frozenset[Step]) -> dict[str, Any]:
    """Return the context for approvals/_panel.html: what the policy requires, and what the user can do about it."""
    decision, reasons = approvals.evaluate_approval(connection, connection.granted)
    approval = approvals.latest_request(connection)
    status = connection.status
    may_sign_in = approvals.may_sign_in(connection)
    return {
        "policy_forbids": [reason.sentence for reason in decision.forbidden],
        "policy_reasons": [reason.sentence for reason in reasons],
        "still_works": status != Connection.Status.DISABLED and connection.connected_at is not None,
        "is_pending": status == Connection.Status.PENDING,
        "approval": approval,
        "account_request": account_changes.open_request(connection),
        "is_approved": approval is not None and approval.state == Approval.State.APPROVED,
        "is_declined": approval is not None and approval.state == Approval.State.DECLINED,
        "may_ask": Step.ASK_APPROVAL in steps,
        "may_sign_in": may_sign_in,
        "blocks_sign_in": status == Connection.Status.RECONNECT_NEEDED and not may_sign_in,
        "may_finish": Step.CONNECT in steps,
    }
