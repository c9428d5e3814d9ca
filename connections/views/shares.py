from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.utils.text import get_text_list
from django.views.decorators.http import require_http_methods, require_POST

from connections import undo
from connections.access import permissions as access_permissions
from connections.access import querysets, roles
from connections.forms.recipients import MOST_LINES
from connections.forms.shares import EmergencyForm, ShareForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.microsoft import capabilities, permissions, token_endpoint
from connections.models import Connection, Share, User
from connections.models.connections import without_tokens
from connections.services.policy.next_steps import Step
from connections.services.sharing import emergency as emergency_access
from connections.services.sharing import shares as sharing_service
from connections.views import access_history
from connections.views.form_handling import done, errors_on, get_visible, render_form


def panel(user: User, connection: Connection, *, steps: frozenset[Step]) -> dict[str, Any]:
    """Return the context for shares/_panel.html: the connection's shares, and what the user may change."""
    shares = Share.objects.active().filter(connection=connection).select_related("person", "team")
    reads_audit = access_permissions.can_read_audit(user)
    return {
        "shares": list(shares.order_by("created_at", "pk")[:100]),
        "may_share": Step.SHARE in steps,
        "may_end_shares": access_permissions.can_share(user, connection),
        "may_take_emergency_access": access_permissions.can_take_emergency_access(user, connection),
        "access_url": access_history.link("connection", connection.pk) if reads_audit else "",
    }


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(access_permissions.can_share(user, connection), action="Ask the owner or an IT admin to share it.")
    limits = sharing_service.limits(connection, now=timezone.now())
    people = querysets.accounts().exclude(pk=connection.owner_id) if limits.with_people else User.objects.none()
    teams, longest = querysets.visible_teams(user), limits.longest_days
    form = ShareForm(request.POST or None, people=people, teams=teams, longest_days=longest)
    if form.is_valid():
        level, until, recipients = form.cleaned_data["level"], form.cleaned_data["until"], form.recipients()
        with errors_on(form):
            now = timezone.now()
            shares = sharing_service.share_with_all(
                connection, recipients, level=level, until=until, actor=user, now=now
            )
            first, *more = [share.pk for share in shares]
            if all(share.created_at == now for share in shares):  # undoing must not end a share that existed before
                fields = {"also": [str(share_pk) for share_pk in more]}
                undo.offer(request, "share_end", kwargs={"pk": pk, "share_pk": first}, fields=fields)
            names = get_text_list([str(each) for each in recipients], "and")
            return done(request, f"{connection} is shared with {names}.", "connection", pk=pk)
    context = {"connection": connection, "reach": reach(connection), "limits": limits}
    return render_form(request, "shares/add.html", form, context)


def reach(connection: Connection) -> dict[str, list[Any]]:
    """Return what the granted permissions allow, including those that were entered manually or granted earlier.

    ``abilities`` are labels of capabilities. ``beyond`` describes permissions that no capability needs. The result is
    {} if the permissions allow nothing.
    """
    granted, kind = connection.granted - token_endpoint.OIDC_SCOPES, connection.authentication_type
    possible = capabilities.can(capabilities.CAPABILITIES, granted, kind)
    beyond = capabilities.beyond(granted, kind)
    abilities = [capability.label for capability, allowed, _ in possible if allowed]
    described = [(name, permissions.describe(name, app_only=not connection.is_delegated)) for name in beyond]
    return {"abilities": abilities, "beyond": described} if abilities or described else {}


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required()
def emergency(request: HttpRequest, pk: int) -> HttpResponse:
    """Give an IT admin access to someone else's connection for a few hours, and alert everybody concerned."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(
        access_permissions.can_take_emergency_access(user, connection),
        cause="Only IT admins who can't use the connection can take emergency access.",
    )
    form = EmergencyForm(request.POST or None)
    if form.is_valid():
        with errors_on(form):
            share = emergency_access.take(connection, **form.cleaned_data, actor=user, now=timezone.now())
            until = f"{share.until:%H:%M} UTC" if share.until else ""
            messages.warning(request, f"You can use {connection} until {until}. Everybody concerned was alerted.")
            return redirect("connection", pk=pk)
    return render_form(request, "shares/emergency.html", form, {"connection": connection})


@require_POST
def end(request: HttpRequest, pk: int, share_pk: int) -> HttpResponse:
    """End a share, and the shares in ``also``, which were created together with it."""
    user, connection = get_visible(request, querysets.visible_connections, pk)
    pks = [share_pk, *map(int, filter(_is_id, request.POST.getlist("also")[:MOST_LINES]))]
    shares = without_tokens(Share.objects.select_related("person", "team", "connection"))
    ended = [get_object_or_404(shares, pk=each, connection=connection) for each in pks]
    with transaction.atomic():
        for share in ended:
            sharing_service.end_share(share, actor=user, now=timezone.now())
    names = get_text_list([str(share.person or share.team) for share in ended], "and")
    messages.success(request, f"{names} can no longer use {connection}.")
    return redirect_to_connection(user, pk)


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


def redirect_to_connection(user: User, pk: int) -> HttpResponse:
    """Redirect to the connection's page, or to the list if the user can no longer see the connection."""
    visible = querysets.visible_connections(user).filter(pk=pk).exists()
    return redirect("connection", pk=pk) if visible else redirect("connections")
