"""Changes that need a second person: the request, the decision, and making the change."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import NotAllowed, PortalError
from connections.forms.requests import DecisionForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import ChangeRequest, User
from connections.services.connections import change_requests
from connections.services.policy import four_eyes
from connections.views.audit import history
from connections.views.form_handling import errors_as_messages, get_visible


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, change = get_visible(request, querysets.visible_change_requests, pk)
    return render(request, "change_requests/detail.html", _context(user, change))


def _context(user: User, change: ChangeRequest) -> dict[str, Any]:
    is_own = permissions.can_withdraw_change(user, change)
    is_approved = change.state == ChangeRequest.State.APPROVED
    expires_at = change.decided_at + four_eyes.LIFETIME if is_approved and change.decided_at else None
    is_usable = is_own and expires_at is not None and expires_at > timezone.now()
    return {
        "change": change,
        "may_decide": change.is_waiting and permissions.can_decide_change(user, change),
        "may_carry_out": is_usable and change.kind not in change_requests.ON_ITS_PAGE,
        "may_open_page": is_usable and change.kind in change_requests.ON_ITS_PAGE,
        "may_withdraw": is_own and (change.is_waiting or is_approved),
        "expires_at": expires_at,
        "form": DecisionForm(),
        "note": "If you approve, the requester can make this change once.",
        "buttons": [("Approve", "", "")],
        "approve_url": reverse("change_request_approve", args=[change.pk]),
        "item": change,
        "withdraw_url": reverse("change_request_withdraw", args=[change.pk]),
        "decline_url": reverse("change_request_decline", args=[change.pk]),
        "events": history(user, change) if permissions.can_read_audit(user) else [],
    }


@require_POST
@fresh_sign_in_required()
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    return _decide(request, pk, four_eyes.approve)


@require_POST
def decline(request: HttpRequest, pk: int) -> HttpResponse:
    return _decide(request, pk, four_eyes.decline)


def _decide(request: HttpRequest, pk: int, service: Callable[..., None]) -> HttpResponse:
    user, change = get_visible(request, querysets.visible_change_requests, pk)
    form = DecisionForm(request.POST, declining=service is four_eyes.decline)
    if not form.is_valid():
        return render(request, "change_requests/detail.html", _context(user, change) | {"form": form}, status=422)
    try:
        service(change, reason=form.cleaned_data["reason"], actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error))
        change.refresh_from_db()
        context = _context(user, change) | {"form": form}
        return render(request, "change_requests/detail.html", context, status=422 if error.field else 409)
    messages.success(request, f"{change.get_state_display()}. We email {change.requested_by_name}.")
    return redirect("change_request", pk=pk)


@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    user, change = get_visible(request, querysets.visible_change_requests, pk)
    with errors_as_messages(request):
        four_eyes.withdraw(change, actor=user, now=timezone.now())
        messages.success(request, "Request was withdrawn.")
    return redirect("change_request", pk=pk)


@require_POST
@fresh_sign_in_required()
def carry_out(request: HttpRequest, pk: int) -> HttpResponse:
    user, change = get_visible(request, querysets.visible_change_requests, pk)
    with errors_as_messages(request):
        change_requests.carry_out(change, actor=user, now=timezone.now())
        messages.success(request, f"Change applied: {change.title}.")
    return redirect("change_request", pk=pk)


def ask(request: HttpRequest, needed: four_eyes.SecondPersonNeeded) -> HttpResponse:
    """Request approval of the change that the user tried to make, and show the request."""
    user = roles.current_user(request.user)
    change = four_eyes.ask(needed.change, actor=user, now=timezone.now())
    messages.warning(request, f"{needed.cause} No changes were made. We requested approval.")
    return redirect("change_request", pk=change.pk)
