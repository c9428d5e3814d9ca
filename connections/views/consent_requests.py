"""Pages about consent requests: asking, and for IT admins deciding."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import NotAllowed, PortalError
from connections.forms.consent_requests import AskForm, DeclineForm
from connections.microsoft import error_tables, permission_risks
from connections.microsoft.error_types import Kind
from connections.models import Connection, ConsentRequest, User
from connections.models.connections import without_tokens
from connections.services.consent import admin_consent, requests
from connections.services.policy import permission_drift
from connections.views import list_pages
from connections.views.audit import history

State = ConsentRequest.State
SHOWN_AFTER = timedelta(days=7)  # how long the home page and the connection's page tell of an answer
LISTED = 20
# Whoever cancels Microsoft's page, whatever it said, comes back with this one.
DECLINED_BY_PERSON = "AADSTS65004"


# --- Lists ----------------------------------------------------------------------------------------


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All requests for IT admins and auditors, one's own for others; newest first."""
    user = roles.current_user(request.user)
    waiting = list_pages.Choice("waits", "Waiting", [("it", "for an IT admin"), ("open", "not answered yet")], _waiting)
    filters = list_pages.Filters(
        request,
        search=("connection_name", "requester_name", "app_registration__name", "permissions"),
        placeholder="Connection, person, app registration or permission",
        choices=(waiting, list_pages.Choice("state", "State", State.choices, list_pages.by("state"))),
    )
    page = list_pages.page(request, filters.apply(querysets.visible_consent_requests(user)), order=("-asked_at", "-pk"))
    context = {"page": page, "filters": filters, "sees_all": permissions.can_read_registry(user)}
    return render(request, "consent_requests/index.html", context)


def _waiting(found: QuerySet[Any], value: str) -> QuerySet[Any]:
    if value == "it":
        return found.filter(pk__in=requests.awaiting_decision(timezone.now()).values("pk"))
    return found.filter(closed_at=None)


def to_decide(user: User) -> list[ConsentRequest]:
    """What waits for an IT admin, oldest first, for their home page."""
    waiting = requests.awaiting_decision(timezone.now()).select_related("app_registration")
    return list(waiting.order_by("asked_at", "pk")[:LISTED]) if permissions.can_manage_registry(user) else []


@dataclass(frozen=True, slots=True)
class Mine:
    """A request of one's own, and whether signing in is the next step."""

    request: ConsentRequest
    sign_in: bool


def mine(user: User) -> list[Mine]:
    """One's own requests that are open or were answered lately, for the home page."""
    found = without_tokens(user.consent_requests.select_related("connection", "app_registration"))
    shown = [one for one in found[:LISTED] if _is_news(one)]
    return [Mine(one, _can_sign_in(user, one)) for one in shown]


def _is_news(request: ConsentRequest) -> bool:
    """Open, or answered lately in a way the requester may still want to read."""
    if request.closed_at is None:
        return True
    return request.state == State.DECLINED and request.closed_at > timezone.now() - SHOWN_AFTER


def _can_sign_in(user: User, request: ConsentRequest) -> bool:
    connection = request.connection
    if request.state not in (State.APPROVED, State.GRANTED) or connection is None or not connection.is_delegated:
        return False
    usable = connection.status != Connection.Status.DISABLED
    return usable and permissions.can_reconnect(user, connection)


# --- Asking ---------------------------------------------------------------------------------------


def panel(user: User, connection: Connection, *, offer: bool = False) -> dict[str, Any]:
    """Context of consent_requests/_panel.html: the request there is, or the form that asks.

    ``offer`` says that Microsoft has just asked for an administrator; otherwise the connection's state tells.
    """
    latest = connection.consent_requests.order_by("-pk").first()
    shown = latest if latest is not None and _is_news(latest) else None
    may_ask = permissions.can_ask_consent(user, connection) and (shown is None or not shown.is_open)
    asks = may_ask and (offer or _is_stopped(connection))
    return {
        "request": shown,
        "may_look": shown is not None and querysets.visible_consent_requests(user).filter(pk=shown.pk).exists(),
        "sign_in": shown is not None and _can_sign_in(user, shown),
        "asks": asks,
        # Microsoft's page "Need admin approval" need not lead back here at all.
        "hints": may_ask and not asks and connection.status == Connection.Status.PENDING,
        "form": AskForm(auto_id="ask_%s") if may_ask else None,
        "purposes": requests.purposes(connection) if asks else (),
    }


def _is_stopped(connection: Connection) -> bool:
    """Whether what it lacks is consent that an administrator must give."""
    if connection.status == Connection.Status.CONSENT_NEEDED:
        return True
    if connection.status == Connection.Status.PENDING:
        number = connection.status_code.removeprefix("AADSTS")
        entry = error_tables.AADSTS.get(int(number)) if number.isascii() and number.isdigit() else None
        declined = connection.status_code == DECLINED_BY_PERSON
        says_so = entry is not None and entry.kind is Kind.CONSENT and not declined
        return says_so or connection.status_code == "consent_needed"
    return connection.status == Connection.Status.ACTIVE and bool(permission_drift.find_drift(connection).needs_admin)


@require_http_methods(["GET", "HEAD", "POST"])
def ask(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask the IT admins to have granted what a connection lacks; while a request is open, lead to it."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_ask_consent(user, connection), action="Only who signs in for it can ask.")
    form = AskForm(request.POST or None, auto_id="ask_%s")
    if request.method == "POST" and form.is_valid():
        try:
            made = requests.request_consent(connection, **form.cleaned_data, actor=user, now=timezone.now())
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            messages.success(request, "The IT admins have been asked. You are told what they decide.")
            return redirect("consent_request", pk=made.pk)
    context = {
        "form": form,
        "connection": connection,
        "purposes": requests.purposes(connection),
        "already": connection.consent_requests.filter(closed_at=None).first(),
    }
    return render(request, "consent_requests/ask.html", context, status=422 if form.is_bound and form.errors else 200)


# --- One request ----------------------------------------------------------------------------------


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Who asks for what and why, how it stands, and what the reader can do about it."""
    user = roles.current_user(request.user)
    found = _found(user, pk)
    return render(request, "consent_requests/detail.html", _context(user, found, form=None))


def _found(user: User, pk: int) -> ConsentRequest:
    visible = querysets.visible_consent_requests(user).select_related(
        "app_registration__tenant", "connection__owner", "link__app_registration__tenant", "requester"
    )
    return get_object_or_404(visible, pk=pk)


def _context(user: User, consent_request: ConsentRequest, *, form: DeclineForm | None) -> dict[str, Any]:
    now = timezone.now()
    decides = permissions.can_manage_registry(user)
    app_only = consent_request.authentication_type == "client_credentials"
    others = requests.same_requests(consent_request).count()
    link = (
        admin_consent.consent_url(consent_request.link, now=now)
        if decides and consent_request.link and consent_request.state == State.APPROVED
        else ""
    )
    undecided = consent_request.state in (State.ASKED, State.APPROVED, State.FAILED)
    connection = consent_request.connection
    visible = connection is not None and querysets.visible_connections(user).filter(pk=connection.pk).exists()
    return {
        "asked": consent_request,
        "app": consent_request.app_registration,
        "connection": connection if visible else None,
        "purposes": requests.purposes(consent_request),
        "risks": permission_risks.describe_risks(
            consent_request.permission_names, app_only=app_only, app=consent_request.app_registration.name
        ),
        "app_only": app_only,
        "others": others,
        "requester_left": consent_request.requester is None or not consent_request.requester.is_active,
        "link": link,
        "run_out": consent_request.state == State.APPROVED
        and consent_request.link is not None
        and decides
        and not link,
        "may_decide": decides and undecided,
        "may_withdraw": consent_request.is_open and permissions.can_withdraw_consent_request(user, consent_request),
        "sign_in": _can_sign_in(user, consent_request),
        "form": form or DeclineForm(initial={"seen": consent_request.state}, others=others, auto_id="decline_%s"),
        "events": history(user, consent_request),
    }


@require_POST
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    """Approve it. ``go`` follows the link to Microsoft at once."""
    user = roles.current_user(request.user)
    found = _found(user, pk)
    try:
        current, url = requests.approve(found, actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        messages.warning(request, str(error))
        return redirect("consent_request", pk=pk)
    if "go" in request.POST:
        return redirect(url)
    if current.decided_by_id != user.pk:
        messages.info(request, f"{current.decided_by_name} has approved it already; the link below is the same.")
    else:
        messages.success(request, "Approved. Send the link below to an administrator of the directory, or open it.")
    return redirect("consent_request", pk=pk)


@require_POST
def decline(request: HttpRequest, pk: int) -> HttpResponse:
    """Decline it with a reason."""
    user = roles.current_user(request.user)
    found = _found(user, pk)
    roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    form = DeclineForm(request.POST, others=requests.same_requests(found).count(), auto_id="decline_%s")
    if form.is_valid():
        try:
            requests.decline(found, **form.cleaned_data, actor=user, now=timezone.now())
        except PortalError as error:
            messages.warning(request, str(error))
        else:
            messages.success(request, f"Declined. {found.requester_name} is told your reason.")
        return redirect("consent_request", pk=pk)
    return render(request, "consent_requests/detail.html", _context(user, found, form=form), status=422)


@require_POST
def withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    """Take one's own request back."""
    user = roles.current_user(request.user)
    found = _found(user, pk)
    try:
        requests.withdraw(found, actor=user, now=timezone.now())
    except NotAllowed:
        raise
    except PortalError as error:
        messages.warning(request, str(error))
    else:
        messages.success(request, "You have taken the request back.")
    return redirect("consent_request", pk=pk)
