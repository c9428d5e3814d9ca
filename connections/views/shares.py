from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from connections.access import permissions as access_permissions
from connections.access import querysets, roles
from connections.forms.shares import ShareForm
from connections.microsoft import capabilities, permissions, token_endpoint
from connections.models import Connection, Share, User
from connections.models.connections import without_tokens
from connections.services.sharing import shares as sharing_service
from connections.views import access_history
from connections.views.form_handling import errors_on, get_visible, render_form


def panel(user: User, connection: Connection) -> dict[str, Any]:
    """Return the context for shares/_panel.html: who uses this connection, and what the user may change."""
    shares = Share.objects.active().filter(connection=connection).select_related("person", "team")
    reads_audit = access_permissions.can_read_audit(user)
    return {
        "shares": list(shares.order_by("created_at", "pk")[:100]),
        "may_share": access_permissions.can_share(user, connection),
        "access_url": access_history.link("connection", connection.pk) if reads_audit else "",
    }


@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(access_permissions.can_share(user, connection), action="Ask its owner or an IT admin to share it.")
    limits = sharing_service.limits(connection, now=timezone.now())
    people = querysets.accounts().exclude(pk=connection.owner_id) if limits.with_people else User.objects.none()
    teams, longest = querysets.visible_teams(user), limits.longest_days
    form = ShareForm(request.POST or None, people=people, teams=teams, longest_days=longest)
    if form.is_valid():
        level, until = form.cleaned_data["level"], form.cleaned_data["until"]
        with errors_on(form):
            recipient: Any = form.recipient_chosen()
            share = sharing_service.share(
                connection, **recipient, level=level, until=until, actor=user, now=timezone.now()
            )
            messages.success(request, f"{connection} is shared with {share.person or share.team}.")
            return redirect("connection", pk=pk)
    context = {"connection": connection, "reach": reach(connection), "limits": limits}
    return render_form(request, "shares/add.html", form, context)


def reach(connection: Connection) -> dict[str, list[Any]]:
    """Return what all granted permissions allow, even those that were entered manually or granted earlier.

    ``abilities`` are labels of capabilities; ``beyond`` describes permissions that no capability needs. Empty if the
    permissions allow nothing.
    """
    granted, kind = connection.granted - token_endpoint.OIDC_SCOPES, connection.authentication_type
    possible = capabilities.can(capabilities.CAPABILITIES, granted, kind)
    beyond = capabilities.beyond(granted, kind)
    abilities = [capability.label for capability, allowed, _ in possible if allowed]
    described = [(name, permissions.describe(name, app_only=not connection.is_delegated)) for name in beyond]
    return {"abilities": abilities, "beyond": described} if abilities or described else {}


@require_POST
def end(request: HttpRequest, pk: int, share_pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    shares = without_tokens(Share.objects.select_related("person", "team", "connection"))
    share = get_object_or_404(shares, pk=share_pk, connection=connection)
    sharing_service.end_share(share, actor=user, now=timezone.now())
    messages.success(request, f"{share.person or share.team} can no longer use {connection}.")
    return redirect_to_connection(user, pk)


def redirect_to_connection(user: User, pk: int) -> HttpResponse:
    """Redirect to the connection's page, or to the list if the user can no longer see the connection."""
    visible = querysets.visible_connections(user).filter(pk=pk).exists()
    return redirect("connection", pk=pk) if visible else redirect("connections")
