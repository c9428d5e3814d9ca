from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.forms.consent_requests import AskForm
from connections.forms.requests import ConsentDecisionForm
from connections.microsoft import error_tables, permission_risks
from connections.microsoft.error_types import Kind
from connections.models import Connection, ConsentRequest, User
from connections.models.connections import without_tokens
from connections.services.consent import admin_consent, requests
from connections.services.policy import next_steps, permission_drift
from connections.views.audit import history
from connections.views.form_handling import errors_as_messages, errors_on, get_visible, render_form

State = ConsentRequest.State
SHOWN_AFTER = timedelta(days=7)  # how long the home page and the connection's page keep showing a declined request
LISTED = 20  # of one's own recent requests
# Microsoft returns this code whenever someone cancels, whichever page they were on.
DECLINED_BY_PERSON = "AADSTS65004"


def recent_requests(user: User) -> list[dict[str, Any]]:
    """Return the user's open or recently declined requests. ``sign_in`` says whether signing in is the next step."""
    own = without_tokens(user.consent_requests.select_related("connection", "app_registration"))[:LISTED]
    return [{"request": row, "sign_in": _can_sign_in(user, row)} for row in own if _is_recent(row)]


def _is_recent(consent_request: ConsentRequest) -> bool:
    if consent_request.closed_at is None:
        return True
    return consent_request.state == State.DECLINED and consent_request.closed_at > timezone.now() - SHOWN_AFTER


def _can_sign_in(user: User, consent_request: ConsentRequest) -> bool:
    connection = consent_request.connection
    return (
        consent_request.state in (State.APPROVED, State.GRANTED)
        and connection is not None
        and connection.status != Connection.Status.DISABLED
        and next_steps.may_sign_in(user, connection)
    )


def panel(user: User, connection: Connection, *, offer: bool = False) -> dict[str, Any]:
    """Return the context for consent_requests/_panel.html: the current request, or the form for a new one.

    With ``offer``, the form is always offered, because Microsoft has just asked for an administrator. Otherwise this
    depends on the connection's state.
    """
    latest = connection.consent_requests.order_by("-pk").first()
    shown = latest if latest is not None and _is_recent(latest) else None
    may_ask = permissions.can_ask_consent(user, connection) and (shown is None or not shown.is_open)
    asks = may_ask and (offer or _needs_admin_consent(connection))
    return {
        "request": shown,
        "is_declined": shown is not None and shown.state == State.DECLINED,
        "may_look": shown is not None and querysets.visible_consent_requests(user).filter(pk=shown.pk).exists(),
        "sign_in": shown is not None and _can_sign_in(user, shown),
        "asks": asks,
        # Microsoft's "Need admin approval" page does not always lead back to the portal.
        "hints": may_ask and not asks and connection.status == Connection.Status.PENDING,
        "form": AskForm(auto_id="ask_%s") if may_ask else None,
        "purposes": requests.purposes(connection) if asks else (),
    }


def _needs_admin_consent(connection: Connection) -> bool:
    """Whether the connection needs consent that only an administrator can give."""
    code = connection.status_code
    if connection.status == Connection.Status.CONSENT_NEEDED:
        return True
    if connection.status == Connection.Status.PENDING:
        number = code.removeprefix("AADSTS")
        entry = error_tables.AADSTS.get(int(number)) if number.isascii() and number.isdigit() else None
        is_consent = entry is not None and entry.kind is Kind.CONSENT and code != DECLINED_BY_PERSON
        return is_consent or code == "consent_needed"
    return connection.status == Connection.Status.ACTIVE and bool(permission_drift.find_drift(connection).needs_admin)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    """Request the consent that a connection lacks from the IT admins. An open request is used again."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(
        permissions.can_ask_consent(user, connection),
        action="Only people who can sign in for this connection can request consent.",
    )
    form = AskForm(request.POST or None, auto_id="ask_%s")
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            consent_request = requests.request_consent(connection, **form.cleaned_data, actor=user, now=timezone.now())
            messages.success(request, "Request sent. We'll email you when it's decided.")
            return redirect("consent_request", pk=consent_request.pk)
    context = {
        "connection": connection,
        "purposes": requests.purposes(connection),
        "open_request": connection.consent_requests.filter(closed_at=None).first(),
    }
    return render_form(request, "consent_requests/add.html", form, context)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, consent_request = get_visible(request, _consent_requests, pk)
    return render(request, "consent_requests/detail.html", _context(user, consent_request, form=None))


def _consent_requests(user: User) -> QuerySet[ConsentRequest]:
    return querysets.visible_consent_requests(user).select_related(
        "app_registration__tenant",
        "connection__tenant",
        "connection__owner",
        "link__app_registration__tenant",
        "requester",
    )


def _context(user: User, consent_request: ConsentRequest, *, form: ConsentDecisionForm | None) -> dict[str, Any]:
    app = consent_request.app_registration
    connection = consent_request.connection
    may_manage = permissions.can_manage_registry(user)
    app_only = consent_request.authentication_type == "client_credentials"
    others = requests.same_requests(consent_request).count()
    approved = consent_request.state == State.APPROVED
    consent_link = consent_request.link if may_manage and approved else None
    url = admin_consent.consent_url(consent_link, now=timezone.now()) if consent_link else ""
    visible = connection is not None and querysets.visible_connections(user).filter(pk=connection.pk).exists()
    return {
        "consent_request": consent_request,
        "app": app,
        "connection": connection if visible else None,
        "purposes": requests.purposes(consent_request),
        "risks": permission_risks.describe_risks(consent_request.permission_names, app_only=app_only, app=app.name),
        "app_only": app_only,
        "others": others,
        "requester_left": consent_request.requester is None or consent_request.requester.is_suspended,
        "link": url,
        "link_expired": consent_link is not None and not url,
        "is_approved": approved,
        "is_declined": consent_request.state == State.DECLINED,
        "may_decide": may_manage and consent_request.state in (State.ASKED, State.APPROVED, State.FAILED),
        "may_withdraw": consent_request.is_open and permissions.can_withdraw_consent_request(user, consent_request),
        "sign_in": _can_sign_in(user, consent_request),
        "form": form or ConsentDecisionForm(initial={"seen": consent_request.state}, others=others),
        "buttons": _buttons(is_approved=approved, has_link=bool(url)),
        "approve_url": reverse("consent_request_approve", args=[consent_request.pk]),
        "decline_url": reverse("consent_request_decline", args=[consent_request.pk]),
        "events": history(user, consent_request),
    }


def _buttons(*, is_approved: bool, has_link: bool) -> list[tuple[str, str, str]]:
    """Return label, icon and name of the buttons that approve; "go" also opens Microsoft's consent page."""
    go = ("Open consent link" if is_approved else "Approve and grant consent", "external-link", "go")
    return [go] if has_link else [go, ("Approve and get link", "link", "")]


@require_POST
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve a request. With ``go`` in the form, also open Microsoft's consent page."""
    user, consent_request = get_visible(request, _consent_requests, pk)
    roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    form = ConsentDecisionForm(request.POST, others=0)
    if not form.is_valid():
        return render_form(request, "consent_requests/detail.html", form, _context(user, consent_request, form=form))
    reason = form.cleaned_data["reason"]
    with errors_as_messages(request):
        consent_request, url = requests.approve(consent_request, reason=reason, actor=user, now=timezone.now())
        if "go" in request.POST:
            return redirect(url)
        if consent_request.decided_by_id != user.pk:
            decided_by = consent_request.decided_by_name
            messages.info(request, f"Already approved by {decided_by}. The consent link is unchanged.")
        else:
            messages.success(
                request, "Approved. Send the link below to a directory administrator, or open it yourself."
            )
    return redirect("consent_request", pk=pk)


@require_POST
def decline(request: HttpRequest, pk: int) -> HttpResponse:
    user, consent_request = get_visible(request, _consent_requests, pk)
    roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    others = requests.same_requests(consent_request).count()
    form = ConsentDecisionForm(request.POST, others=others, declining=True)
    if form.is_valid():
        with errors_as_messages(request):
            requests.decline(consent_request, **form.cleaned_data, actor=user, now=timezone.now())
            messages.success(request, f"Declined. We'll email your reason to {consent_request.requester_name}.")
        return redirect("consent_request", pk=pk)
    return render_form(request, "consent_requests/detail.html", form, _context(user, consent_request, form=form))


@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    user, consent_request = get_visible(request, _consent_requests, pk)
    with errors_as_messages(request):
        requests.withdraw(consent_request, actor=user, now=timezone.now())
        messages.success(request, "Request was withdrawn.")
    return redirect("consent_request", pk=pk)
