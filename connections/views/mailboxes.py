"""Pages about shared mailboxes, and the part of a connection's page about them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import PortalError
from connections.forms.mailboxes import AttachForm, MailboxEditForm, MailboxForm
from connections.microsoft import exchange_script
from connections.microsoft.mailbox_errors import WITHOUT_MAILBOX, ReachState
from connections.models import Connection, MailboxAccess, SharedMailbox, Tenant, User
from connections.models.tenants import SHARED_ENDPOINTS
from connections.services.mailboxes import mailboxes, probes
from connections.views import audit, list_pages

SUGGESTED = 200  # addresses offered while typing


# --- The list and one mailbox ---------------------------------------------------------------------


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """All shared mailboxes, and how many connections reach each."""
    user = roles.current_user(request.user)
    tenants = [(str(tenant.pk), tenant.name) for tenant in _directories(user)[:SUGGESTED]]
    filters = list_pages.Filters(
        request,
        search=("address", "display_name"),
        placeholder="Address or name",
        choices=[list_pages.Choice("tenant", "Tenant", tenants, list_pages.by("tenant_id"))],
    )
    found = filters.apply(querysets.visible_mailboxes(user)).annotate(
        attached=Count("accesses"),
        reached=Count("accesses", filter=Q(accesses__state=MailboxAccess.State.REACHABLE)),
        unreached=Count("accesses", filter=Q(accesses__state=MailboxAccess.State.UNREACHABLE)),
    )
    page = list_pages.page(request, found, order=("address", "pk"))
    context = {"page": page, "filters": filters, "may_add": permissions.can_register_mailbox(user)}
    return render(request, "mailboxes/index.html", context)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One mailbox and the connections that have it attached, as far as this person may see them."""
    user = roles.current_user(request.user)
    mailbox = get_object_or_404(querysets.visible_mailboxes(user), pk=pk)
    rows = (
        mailbox.accesses.filter(connection__in=querysets.visible_connections(user))
        .with_connection()
        .order_by("connection__name", "pk")
    )
    context = {
        "mailbox": mailbox,
        "rows": rows,
        "others": mailbox.accesses.count() - len(rows),
        "reached": sum(row.state == MailboxAccess.State.REACHABLE for row in rows),
        "may_test": any(
            permissions.can_check(user, row.connection) and probes.can_be_probed(row.connection) for row in rows
        ),
        "may_change": permissions.can_change_mailbox(user, mailbox),
        "events": audit.history(user, mailbox),
    }
    return render(request, "mailboxes/detail.html", context)


@require_POST
def test(request: HttpRequest, pk: int) -> HttpResponse:
    """Test one mailbox through all connections that have it attached and that this person may check."""
    user = roles.current_user(request.user)
    mailbox = get_object_or_404(querysets.visible_mailboxes(user), pk=pk)
    done, left = probes.probe_mailbox(mailbox, actor=user, now=timezone.now())
    _say_tested(request, done)
    if left:
        messages.info(request, f"{left} more {'is' if left == 1 else 'are'} tested within the next minutes.")
    if not done and not left:
        messages.info(request, "None of your connections works just now, so the mailbox cannot be tested.")
    return redirect("mailbox", pk=mailbox.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    """Register a shared mailbox."""
    user = roles.current_user(request.user)
    roles.require(permissions.can_register_mailbox(user), cause="Auditors only look.", action="Ask a member to add it.")
    tenants = _directories(user)
    form = MailboxForm(request.POST or None, tenants=tenants)
    if form.is_valid():
        said = form.cleaned_data
        try:
            made = mailboxes.register(
                said["tenant"], address=said["address"], display_name=said["display_name"], actor=user
            )
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            messages.success(request, f"{made} is registered. Attach it to a connection to use it.")
            return redirect("mailbox", pk=made.pk)
    context = {"form": form, "no_tenant": not tenants.exists()}
    return render(request, "mailboxes/add.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    """Correct a mailbox's name or address."""
    user = roles.current_user(request.user)
    mailbox = _changeable(user, pk)
    form = MailboxEditForm(request.POST or None, mailbox=mailbox)
    if form.is_valid():
        try:
            mailboxes.change(mailbox, **form.cleaned_data, actor=user)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            messages.success(request, f"{mailbox} is changed.")
            return redirect("mailbox", pk=mailbox.pk)
    context = {"form": form, "mailbox": mailbox}
    return render(request, "mailboxes/edit.html", context, status=422 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask, then remove a mailbox that no connection has attached."""
    user = roles.current_user(request.user)
    mailbox = _changeable(user, pk)
    if request.method == "POST":
        try:
            mailboxes.remove(mailbox, actor=user)
        except PortalError as error:
            messages.error(request, str(error))
            return redirect("mailbox", pk=pk)
        messages.success(request, f"{mailbox} is removed.")
        return redirect("mailboxes")
    return render(request, "mailboxes/remove.html", {"mailbox": mailbox, "users": mailbox.accesses.count()})


def _changeable(user: User, pk: int) -> SharedMailbox:
    mailbox = get_object_or_404(querysets.visible_mailboxes(user), pk=pk)
    roles.require(permissions.can_change_mailbox(user, mailbox), action="Ask an IT admin, or whoever registered it.")
    return mailbox


def _directories(user: User) -> Any:
    """Tenants that are directories: only those have mailboxes."""
    return querysets.visible_tenants(user).exclude(directory_id__in=SHARED_ENDPOINTS)


# --- On a connection's page -----------------------------------------------------------------------


def attached(user: User, connection: Connection) -> dict[str, Any]:
    """Context of mailboxes/_attached.html."""
    may_change = permissions.can_reconnect(user, connection)
    return {
        "mailbox_rows": connection.mailbox_accesses.select_related("mailbox"),
        "mailboxes_may_change": may_change,
        "mailboxes_may_probe": permissions.can_check(user, connection) and probes.can_be_probed(connection),
        "mailboxes_send": probes.may_send(connection),
        "mailboxes_wide": _tenant_wide(connection),
        "mailboxes_missing": mailboxes.missing_permission(connection),
        "mailbox_form": AttachForm() if may_change else None,
        "known_mailboxes": _suggestions(connection) if may_change else [],
    }


def _suggestions(connection: Connection) -> list[str]:
    tenant: Tenant | None = mailboxes.home_tenant(connection)
    if tenant is None:
        return []
    free = tenant.shared_mailboxes.exclude(accesses__connection=connection)
    return list(free.values_list("address", flat=True)[:SUGGESTED])


@require_http_methods(["GET", "HEAD", "POST"])
def attach(request: HttpRequest, pk: int) -> HttpResponse:
    """Attach a mailbox to a connection and, if it is active, test it at once."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Ask its owner.")
    form = AttachForm(request.POST or None)
    if form.is_valid():
        try:
            made = mailboxes.attach_address(connection, address=form.cleaned_data["address"], actor=user)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            _probe(request, connection, [made], user)
            return redirect("connection", pk=connection.pk)
    context = {"form": form, "connection": connection, "known_mailboxes": _suggestions(connection)}
    return render(request, "mailboxes/attach.html", context, status=422 if form.errors else 200)


@require_POST
def probe_all(request: HttpRequest, pk: int) -> HttpResponse:
    """Test all mailboxes of a connection now."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_check(user, connection), action="Ask its owner or an IT admin.")
    _probe(request, connection, list(connection.mailbox_accesses.select_related("mailbox")), user)
    return redirect("connection", pk=connection.pk)


@require_POST
def probe(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    """Test one attached mailbox now."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_check(user, connection), action="Ask its owner or an IT admin.")
    _probe(request, connection, [get_object_or_404(connection.mailbox_accesses, pk=access_pk)], user)
    return redirect("connection", pk=connection.pk)


@require_POST
def detach(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    """Detach a mailbox from a connection."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Ask its owner.")
    mailbox_access = get_object_or_404(connection.mailbox_accesses.select_related("mailbox"), pk=access_pk)
    mailboxes.detach(mailbox_access, actor=user)
    messages.success(request, f"{mailbox_access.mailbox} is detached from {connection}. It stays registered.")
    return redirect("connection", pk=connection.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def send(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    """Say what a test message does, then send it: nothing else shows whether one may send as the mailbox."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    roles.require(permissions.can_reconnect(user, connection), action="Ask its owner.")
    row = get_object_or_404(connection.mailbox_accesses.select_related("mailbox"), pk=access_pk)
    row.connection = connection
    if request.method != "POST":
        return render(request, "mailboxes/send.html", {"row": row, "connection": connection})
    try:
        outcome = probes.send_test_message(row, actor=user, now=timezone.now())
    except PortalError as error:
        messages.error(request, str(error))
    else:
        if outcome.state is ReachState.REACHABLE:
            messages.success(request, f"The test message was sent from {row.mailbox}.")
        else:
            messages.warning(request, f"{row.mailbox}: {outcome.cause} {outcome.action}".strip())
    return redirect("connection", pk=connection.pk)


def _probe(request: HttpRequest, connection: Connection, rows: list[MailboxAccess], user: User) -> None:
    """Test them and say what came out; a connection without a token is tested after its next sign-in."""
    if not probes.can_be_probed(connection):
        for row in rows:
            messages.info(request, f"{row.mailbox} is attached. It is tested as soon as the connection is active.")
        return
    try:
        done = probes.probe(connection, actor=user, now=timezone.now(), only=rows)
    except PortalError as error:
        names = ", ".join(str(row.mailbox) for row in rows)
        messages.warning(request, f"{names} could not be tested. {error}")
        return
    _say_tested(request, done)


def _say_tested(request: HttpRequest, rows: list[MailboxAccess]) -> None:
    """One sentence for one mailbox; for several a count, as the page says the rest."""
    if len(rows) > 1:
        reached = sum(row.state == MailboxAccess.State.REACHABLE for row in rows)
        say = messages.success if reached == len(rows) else messages.warning
        say(request, f"{reached} of {len(rows)} tests reached the mailbox.")
        return
    for one in rows:
        if one.state == MailboxAccess.State.REACHABLE:
            messages.success(request, f"{one.mailbox} is reachable.")
        else:
            messages.warning(request, f"{one.mailbox}: {one.cause} {one.action}".strip())


# --- Commands for Exchange ------------------------------------------------------------------------


@require_safe
def exchange(request: HttpRequest, pk: int) -> HttpResponse:
    """The PowerShell commands that open a connection's mailboxes to it and to nothing else; also as files."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    plan = mailboxes.exchange_plan(connection)
    if plan is not None and "download" in request.GET:
        return _download(plan, request.GET["download"])
    app = connection.app_registration
    wanted = mailboxes.application_roles(connection)
    context = {
        "connection": connection,
        "has_mailboxes": connection.mailbox_accesses.exists(),
        "steps": exchange_script.steps(plan) if plan else [],
        "plan": plan,
        "left_out": connection.mailbox_accesses.filter(
            lack__in=[lack.value for lack in WITHOUT_MAILBOX]
        ).select_related("mailbox"),
        "wide": _tenant_wide(connection),
        "in_entra": [role for role in wanted if not exchange_script.roles_for([role])],
        "siblings": querysets.visible_connections(user)
        .filter(app_registration=app, authentication_type=connection.authentication_type)
        .exclude(pk=connection.pk)
        .order_by("name")[:20],
        "in_sandbox": app.tenant.environment == "sandbox",
    }
    return render(request, "mailboxes/exchange.html", context)


def _download(plan: exchange_script.ApplicationPlan | exchange_script.AccountPlan, key: str) -> HttpResponse:
    try:
        text = exchange_script.script(plan, key)
    except KeyError:
        raise Http404 from None
    # With the byte order mark: Windows PowerShell 5.1 takes a file without one for the old code page, in which parts
    # of some letters are quotation marks.
    response = HttpResponse(text.encode("utf-8-sig"), content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="exchange-{key}-{plan.key}.ps1"'
    return response


def _tenant_wide(connection: Connection) -> tuple[str, ...]:
    """Application permissions in force that open every mailbox of the organisation."""
    return () if connection.is_delegated else exchange_script.tenant_wide(connection.granted)
