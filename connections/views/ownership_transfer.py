from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from connections import effective_status
from connections.access import permissions, querysets, roles
from connections.errors import PortalError
from connections.forms.ownership_transfer import TransferAllForm, TransferForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import ApiKey, Connection, HandOver, User
from connections.services.api_keys import api_keys
from connections.services.people import ownership_transfer
from connections.services.sharing import usage
from connections.validators import KEEP
from connections.views.form_handling import errors_on, get_visible, render_form
from connections.views.shares import reach, redirect_to_connection

AT_ONCE = 50  # connections per page; the next ones appear when these have been transferred


def waiting(user: User, connection: Connection) -> dict[str, Any]:
    """Return the context for ownership_transfer/_pending_transfer.html, for a new owner who hasn't signed in yet."""
    transfer = ownership_transfer.pending_transfer(connection)
    return {"hand_over": transfer, "hand_over_is_mine": transfer is not None and transfer.to_owner_id == user.pk}


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def connection(request: HttpRequest, pk: int) -> HttpResponse:
    user, connection = get_visible(request, querysets.visible_connections, pk)
    roles.require(permissions.can_hand_over(user, connection), action="Ask the owner or an IT admin.")
    form = TransferForm(request.POST or None, connection=connection, people=querysets.possible_owners())
    if form.is_valid():
        owner, name, keep = form.cleaned_data["new_owner"], form.cleaned_data["new_name"], form.keeps_grant
        now = timezone.now()
        with errors_on(form):
            transfer = ownership_transfer.transfer(
                connection, owner, keep_grant=keep, new_name=name, actor=user, now=now
            )
            messages.success(request, _done(transfer))
            return redirect_to_connection(user, pk)
    used = usage.usage_of([pk], now=timezone.now())[pk]
    context = {
        "connection": connection,
        "usage": used,
        "own_keys": used.keys_of(connection.owner_id),
        "other_keys": used.keys_of_others(connection.owner_id),
        "reach": reach(connection),
        **waiting(user, connection),
    }
    return render_form(request, "ownership_transfer/connection.html", form, context)


def _done(transfer: HandOver) -> str:
    owner = transfer.to_name.partition(" <")[0]
    if transfer.completed_at:
        return f"Ownership of {transfer.connection} is transferred to {owner}."
    after = (
        "Until then, the connection keeps working." if transfer.keeps_grant else "Until then, it doesn't issue tokens."
    )
    return f"Ownership of {transfer.connection} is transferred to {owner}, who needs to sign in. {after}"


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def person(request: HttpRequest, pk: int) -> HttpResponse:
    user = roles.current_user(request.user)
    roles.require(
        permissions.can_manage_people(user), cause="Only IT admins can transfer ownership.", action="Ask an IT admin."
    )
    leaver = get_object_or_404(querysets.visible_people(user), pk=pk)
    owned = querysets.visible_connections(user).filter(owner=leaver).order_by("name", "pk")
    connections = effective_status.load(owned[:AT_ONCE])
    people = querysets.possible_owners()
    form = TransferAllForm(request.POST or None, connections=connections, people=people, leaver=leaver)
    if "revoke" in request.POST:
        return _revoke(request, user, leaver)
    if form.is_valid() and _transfer_all(request, form, user):
        return redirect("person_hand_over" if owned.exists() else "person", pk=pk)
    now = timezone.now()
    used = usage.usage_of([connection.pk for connection in connections], now=now)
    context = {
        "person": leaver,
        "rows": [{**row, "usage": used[row["connection"].pk]} for row in form.rows()],
        "more": max(0, owned.count() - len(connections)),
        "keys": usage.working_keys(leaver, now=now),
        "service_accounts": list(querysets.visible_service_accounts(user).filter(responsible=leaver)[:AT_ONCE]),
    }
    return render_form(request, "ownership_transfer/person.html", form, context)


def _transfer_all(request: HttpRequest, form: TransferAllForm, user: User) -> bool:
    """Transfer the chosen connections one by one. Return whether all transfers succeeded."""
    done = 0
    keep, now = form.cleaned_data["grant"] == KEEP, timezone.now()
    for connection, owner, name in form.chosen():
        try:
            ownership_transfer.transfer(connection, owner, keep_grant=keep, new_name=name, actor=user, now=now)
            done += 1
        except PortalError as error:
            field = "name" if error.field == "new_name" else "to"
            form.add_error(f"{field}_{connection.pk}", str(error))
    if done:
        plural = "connections are" if done > 1 else "connection is"
        messages.success(request, f"{done} {plural} transferred. New owners need to sign in to delegated connections.")
    return not form.errors


def _revoke(request: HttpRequest, user: User, leaver: User) -> HttpResponse:
    pks = [int(pk) for pk in request.POST.getlist("key") if pk.isdecimal() and len(pk) < 18]
    keys = list(ApiKey.objects.filter(owner=leaver, pk__in=pks))
    for key in keys:
        api_keys.revoke(key, actor=user, now=timezone.now())
    if keys:
        messages.success(request, f"Revoked: {', '.join(map(str, keys))}.")
    else:
        messages.warning(request, "Select the keys to revoke.")
    return redirect("person_hand_over", pk=leaver.pk)
