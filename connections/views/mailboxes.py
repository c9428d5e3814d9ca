from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import effective_status, undo
from connections.access import counts, permissions, querysets, roles
from connections.effective_status import EffectiveStatus
from connections.errors import PortalError
from connections.forms.mailboxes import AttachForm, MailboxEditForm, MailboxForm
from connections.microsoft import exchange_script
from connections.microsoft.mailbox_errors import WITHOUT_MAILBOX, ReachState
from connections.models import Connection, MailboxAccess, SharedMailbox, User
from connections.models.tenants import SHARED_ENDPOINTS
from connections.services.connections import directories
from connections.services.mailboxes import mailboxes, probes
from connections.services.policy import next_steps
from connections.views import audit, list_pages
from connections.views.form_handling import done, errors_as_messages, errors_on, get_visible, render_form

SUGGESTED = 200  # addresses suggested while typing
REACHABLE = MailboxAccess.State.REACHABLE


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    tenants = [(str(tenant.pk), tenant.name) for tenant in _tenants_with_mailboxes(user)[:SUGGESTED]]
    filters = list_pages.Filters(
        request,
        search=("address", "display_name"),
        placeholder="Address or name",
        choices=[list_pages.Choice("tenant", "Tenant", tenants, list_pages.by("tenant_id"))],
        sorts=list_pages.name_sorts("address"),
    )
    rows = filters.apply(querysets.visible_mailboxes(user)).annotate(
        attached=counts.related(MailboxAccess.objects.all(), "mailbox"),
        reached=counts.related(MailboxAccess.objects.filter(state=REACHABLE), "mailbox"),
        unreached=counts.related(MailboxAccess.objects.filter(state=MailboxAccess.State.UNREACHABLE), "mailbox"),
    )
    page = list_pages.page(request, rows, order=filters.order)
    context = {"page": page, "filters": filters, "may_add": permissions.can_register_mailbox(user)}
    return render(request, "mailboxes/index.html", context)


def _tenants_with_mailboxes(user: User) -> Any:
    """Return the visible tenants that are directories, so without shared endpoints."""
    return querysets.visible_tenants(user).exclude(directory_id__in=SHARED_ENDPOINTS)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, mailbox = get_visible(request, querysets.visible_mailboxes, pk)
    rows = mailbox.accesses.filter(connection__in=querysets.visible_connections(user)).with_connection()
    rows = rows.order_by("connection__name", "pk")
    effective_status.load(row.connection for row in rows)
    context = {
        "mailbox": mailbox,
        "rows": [(row, effective_status.of(row.connection) == EffectiveStatus.ACTIVE) for row in rows],
        "others": mailbox.accesses.count() - len(rows),
        "reached": sum(row.state == REACHABLE for row in rows),
        "may_test": any(
            permissions.can_check(user, row.connection) and probes.can_be_probed(row.connection) for row in rows
        ),
        "may_change": permissions.can_change_mailbox(user, mailbox),
        "events": audit.history(user, mailbox),
    }
    return render(request, "mailboxes/detail.html", context)


@require_POST
def test(request: HttpRequest, pk: int) -> HttpResponse:
    """Test the mailbox through every attached connection that the user may test."""
    user, mailbox = get_visible(request, querysets.visible_mailboxes, pk)
    tested, left = probes.probe_mailbox(mailbox, actor=user, now=timezone.now())
    _report_tests(request, tested)
    if left:
        messages.info(request, f"{left} more will be tested within a few minutes.")
    if not tested and not left:
        messages.info(request, "The mailbox can't be tested, because none of your connections currently work.")
    return redirect("mailbox", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_register_mailbox(user),
        cause="Auditors have read-only access.",
        action="Ask a member to add it.",
    )
    tenants = _tenants_with_mailboxes(user)
    form = MailboxForm(request.POST or None, tenants=tenants)
    if form.is_valid():
        with errors_on(form):
            mailbox = mailboxes.register(**form.cleaned_data, actor=user)
            messages.success(request, f"{mailbox} was added. Attach it to a connection to use it.")
            return redirect("mailbox", pk=mailbox.pk)
    return render_form(request, "mailboxes/add.html", form, {"no_tenant": not tenants.exists()})


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, mailbox = _changeable_mailbox(request, pk)
    initial = {"address": mailbox.address, "display_name": mailbox.display_name}
    form = MailboxEditForm(request.POST or None, initial=initial)
    if form.is_valid():
        with errors_on(form):
            mailboxes.change(mailbox, **form.cleaned_data, actor=user)
            return done(request, f"{mailbox} was updated.", "mailbox", pk=pk)
    return render_form(request, "mailboxes/edit.html", form, {"mailbox": mailbox})


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, mailbox = _changeable_mailbox(request, pk)
    if request.method == "POST":
        with errors_as_messages(request, level=messages.ERROR):
            mailboxes.remove(mailbox, actor=user)
            return done(request, f"{mailbox} was removed.", "mailboxes")
        return redirect("mailbox", pk=pk)
    return render(request, "mailboxes/remove.html", {"mailbox": mailbox, "users": mailbox.accesses.count()})


def _changeable_mailbox(request: HttpRequest, pk: int) -> tuple[User, SharedMailbox]:
    user, mailbox = get_visible(request, querysets.visible_mailboxes, pk)
    roles.require(permissions.can_change_mailbox(user, mailbox), action="Ask an IT admin, or the person who added it.")
    return user, mailbox


def attached(user: User, connection: Connection) -> dict[str, Any]:
    may_change = permissions.can_reconnect(user, connection)
    rows = list(connection.mailbox_accesses.select_related("mailbox"))
    may_attach = may_change and mailboxes.reads_mailboxes(connection)
    missing = mailboxes.missing_permission(connection)
    return {
        "mailbox_rows": rows,
        "mailboxes_apply": bool(rows or connection.pending_mailboxes) or mailboxes.reads_mailboxes(connection),
        "mailboxes_may_change": may_change,
        "mailboxes_may_probe": permissions.can_check(user, connection) and probes.can_be_probed(connection),
        "mailboxes_send": probes.may_send(connection),
        "mailboxes_wide": _tenant_wide(connection),
        "mailboxes_missing": missing,
        "mailboxes_may_add_permission": bool(missing) and next_steps.may_sign_in(user, connection),
        "mailboxes_pending": connection.pending_mailboxes,
        "mailboxes_pending_why": directories.why_waiting(connection),
        "mailbox_form": AttachForm() if may_attach else None,
        "known_mailboxes": _suggestions(connection) if may_attach else [],
    }


def _suggestions(connection: Connection) -> list[str]:
    """Return addresses in the connection's tenant that are not attached yet."""
    tenant = mailboxes.home_tenant(connection)
    if tenant is None:
        return []
    free = tenant.shared_mailboxes.exclude(accesses__connection=connection)
    return list(free.values_list("address", flat=True)[:SUGGESTED])


def _connection(request: HttpRequest, pk: int, *, to_check: bool = False) -> tuple[User, Connection]:
    """Return the user and a visible connection that they may change or, with ``to_check``, test."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    if to_check:
        roles.require(permissions.can_check(user, connection), action="Ask the owner or an IT admin.")
    else:
        roles.require(permissions.can_reconnect(user, connection), action="Ask the owner.")
    return user, connection


def _access(connection: Connection, pk: int) -> MailboxAccess:
    return get_object_or_404(connection.mailbox_accesses.select_related("mailbox"), pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def attach(request: HttpRequest, pk: int) -> HttpResponse:
    """Attach a mailbox to a connection. If the connection is active, test the mailbox."""
    user, connection = _connection(request, pk)
    form = AttachForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            access = mailboxes.attach_address(connection, address=form.cleaned_data["address"], actor=user)
            _probe(request, connection, [access], user)
            return redirect("connection", pk=pk)
    context = {"connection": connection, "known_mailboxes": _suggestions(connection)}
    return render_form(request, "mailboxes/attach.html", form, context)


@require_POST
def probe_all(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = _connection(request, pk, to_check=True)
    _probe(request, connection, list(connection.mailbox_accesses.select_related("mailbox")), user)
    return redirect("connection", pk=pk)


@require_POST
def probe(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    user, connection = _connection(request, pk, to_check=True)
    _probe(request, connection, [_access(connection, access_pk)], user)
    return redirect("connection", pk=pk)


@require_POST
def detach(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    user, connection = _connection(request, pk)
    access = _access(connection, access_pk)
    mailboxes.detach(access, actor=user)
    undo.offer(request, "mailbox_attach", kwargs={"pk": pk}, fields={"address": [access.mailbox.address]})
    return done(request, f"{access.mailbox} was detached from {connection}.", "connection", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def send(request: HttpRequest, pk: int, access_pk: int) -> HttpResponse:
    """Send a test message after a confirmation. Nothing else shows whether sending as the mailbox works."""
    user, connection = _connection(request, pk)
    access = _access(connection, access_pk)
    access.connection = connection
    if request.method != "POST":
        return render(request, "mailboxes/send.html", {"row": access, "connection": connection})
    with errors_as_messages(request, level=messages.ERROR):
        outcome = probes.send_test_message(access, actor=user, now=timezone.now())
        if outcome.state is ReachState.REACHABLE:
            messages.success(request, f"The test message was sent from {access.mailbox}.")
        else:
            messages.warning(request, f"{access.mailbox}: {outcome.cause} {outcome.action}".strip())
    return redirect("connection", pk=pk)


def _probe(request: HttpRequest, connection: Connection, rows: list[MailboxAccess], user: User) -> None:
    """Test the mailboxes and report the result. Without a token, they are tested after the connection's next sign-in."""
    if not probes.can_be_probed(connection):
        for row in rows:
            messages.info(request, f"{row.mailbox} is attached. It will be tested when the connection is active.")
        return
    try:
        tested = probes.probe(connection, actor=user, now=timezone.now(), only=rows)
    except PortalError as error:
        names = ", ".join(str(row.mailbox) for row in rows)
        messages.warning(request, f"{names} couldn't be tested. {error}")
        return
    _report_tests(request, tested)


def _report_tests(request: HttpRequest, rows: list[MailboxAccess]) -> None:
    """Report the details for a single mailbox. For several, report only the number, because the page shows the details."""
    if len(rows) > 1:
        reached = sum(row.state == REACHABLE for row in rows)
        add_message = messages.success if reached == len(rows) else messages.warning
        add_message(request, f"{reached} of {len(rows)} connections can reach the mailbox.")
        return
    for row in rows:
        if row.state == REACHABLE:
            messages.success(request, f"{row.mailbox} is reachable.")
        else:
            messages.warning(request, f"{row.mailbox}: {row.cause} {row.action}".strip())


@require_safe
def powershell(request: HttpRequest, pk: int) -> HttpResponse:
    """Show or download the PowerShell commands that give a connection access to its own mailboxes only."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    plan = mailboxes.exchange_plan(connection)
    if plan is not None and "download" in request.GET:
        return _download(plan, request.GET["download"])
    app = connection.app_registration
    not_mailboxes = [lack.value for lack in WITHOUT_MAILBOX]
    kind = connection.authentication_type
    siblings = querysets.visible_connections(user).filter(app_registration=app, authentication_type=kind)
    context = {
        "connection": connection,
        "has_mailboxes": connection.mailbox_accesses.exists(),
        "steps": exchange_script.steps(plan) if plan else [],
        "plan": plan,
        "left_out": connection.mailbox_accesses.filter(lack__in=not_mailboxes).select_related("mailbox"),
        "wide": _tenant_wide(connection),
        "in_entra": [role for role in mailboxes.application_roles(connection) if not exchange_script.roles_for([role])],
        "siblings": siblings.exclude(pk=pk).order_by("name")[:20],
        "in_sandbox": app.tenant.environment == "sandbox",
    }
    return render(request, "mailboxes/powershell.html", context)


def _download(plan: exchange_script.ApplicationPlan | exchange_script.AccountPlan, key: str) -> HttpResponse:
    try:
        text = exchange_script.script(plan, key)
    except KeyError:
        raise Http404 from None
    # Without the byte order mark, Windows PowerShell 5.1 assumes a legacy code page, in which bytes of UTF-8 letters
    # can be quotation marks.
    headers = {"Content-Disposition": f'attachment; filename="exchange-{key}-{plan.key}.ps1"'}
    return HttpResponse(text.encode("utf-8-sig"), content_type="text/plain; charset=utf-8", headers=headers)


def _tenant_wide(connection: Connection) -> tuple[str, ...]:
    """Return the granted application permissions that give access to every mailbox in the organisation."""
    return () if connection.is_delegated else exchange_script.tenant_wide(connection.granted)
