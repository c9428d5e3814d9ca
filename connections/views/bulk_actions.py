from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from connections.access import permissions, querysets, roles
from connections.forms.bulk_actions import OptionsForm, options_form
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import BulkAction, BulkItem, Connection, User
from connections.services.connections import bulk_actions, bulk_options
from connections.views import connection_list, list_pages
from connections.views.form_handling import errors_as_messages, errors_on, get_visible

Action, ItemState = BulkAction.Action, BulkItem.State

# What each action will do to the connections that aren't skipped.
EFFECTS = {
    Action.CHECK: "The portal requests a new token for each connection, one after the other.",
    Action.SHARE: "The recipients get access immediately, and we notify the owners.",
    Action.TRANSFER: "The new owner takes over immediately, and needs to sign in to delegated connections.",
    Action.ENABLE: "The connections refresh and issue tokens again.",
    Action.DISABLE: "The connections don't refresh or issue tokens until they are enabled again.",
    Action.TAG: "The connections get these tags in addition to their own.",
    Action.UNTAG: "The connections lose these tags.",
    Action.REMOVE: "Automations lose access immediately. The connections and their tokens are deleted. "
    "This can't be undone.",
}
# Button labels.
VERBS = {
    Action.CHECK: "Test connections",
    Action.SHARE: "Share connections",
    Action.TRANSFER: "Transfer ownership",
    Action.ENABLE: "Enable connections",
    Action.DISABLE: "Disable connections",
    Action.TAG: "Add tags",
    Action.UNTAG: "Remove tags",
    Action.REMOVE: "Remove connections",
}


def choices(filters: list_pages.Filters, user: User) -> dict[str, Any]:
    """Return the context for bulk_actions/_choices.html on a list of connections; {} for read-only users."""
    if not permissions.can_change_many(user):
        return {}
    return {"actions": Action.choices, "most": bulk_actions.MOST_CONNECTIONS}


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    context = {
        "page": list_pages.page(request, querysets.visible_bulk_actions(user), order=("-pk",)),
        "filters": list_pages.Filters(request),
        "sees_all": permissions.can_read_audit(user),
    }
    return render(request, "bulk_actions/list.html", context)


@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """Prepare an action on the selected connections, or on all that match the filters in the query string."""
    user = roles.current_user(request.user)
    action = request.POST.get("action", "")
    with errors_as_messages(request):
        if action not in Action.values:
            messages.warning(request, "Choose an action.")
        else:
            bulk_action = bulk_actions.draft(action, _selected(request, user), actor=user, now=timezone.now())
            return redirect("bulk_action", pk=bulk_action.pk)
    return redirect(f"{reverse('connections')}?{list_pages.query_without_page(request).urlencode()}")


def _selected(request: HttpRequest, user: User) -> list[Connection]:
    """Return the visible ones among the selected connections, in the order of the list."""
    visible, most = querysets.visible_connections(user).order_by("name", "pk"), bulk_actions.MOST_CONNECTIONS
    if "all" not in request.POST:
        pks = [int(pk) for pk in request.POST.getlist("connection")[: most + 1] if pk.isdecimal() and len(pk) < 19]
        return list(visible.filter(pk__in=pks))
    matching = list(connection_list.filters_of(request).apply(visible)[: most + 1])
    if len(matching) > most:
        messages.warning(request, f"More than {most} connections match. Only the first {most} are selected.")
    return matching[:most]


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the preview of a prepared action, the progress of a running one, or the result."""
    user, bulk_action = get_visible(request, querysets.visible_bulk_actions, pk)
    return _render(request, user, bulk_action)


def _render(request: HttpRequest, user: User, bulk_action: BulkAction, form: OptionsForm | None = None) -> HttpResponse:
    options = bulk_options.load(bulk_action)
    if form is None and bulk_action.is_draft:
        form = options_form(bulk_action, options, None, user=user)
    counts = dict(bulk_action.items.order_by().values_list("state").annotate(Count("pk")))
    total, waiting = sum(counts.values()), counts.get(ItemState.WAITING, 0)
    filters = list_pages.Filters(
        request, choices=(list_pages.Choice("state", "Result", ItemState.choices, list_pages.by("state")),)
    )
    context = {
        "bulk_action": bulk_action,
        "page": list_pages.page(request, filters.apply(bulk_action.items.all()), order=("pk",)),
        "filters": filters,
        "form": form,
        "facts": options.recorded(),
        "effect": EFFECTS[Action(bulk_action.action)],
        "verb": VERBS[Action(bulk_action.action)],
        "total": total,
        "waiting": waiting,
        "done": counts.get(ItemState.DONE, 0),
        "skipped": counts.get(ItemState.SKIPPED, 0),
        "percent": 100 * (total - waiting) // max(total, 1),
        "is_own": bulk_action.requested_by_id == user.pk,
        "may_stop": bulk_action.is_running and permissions.can_stop(user, bulk_action),
        "reads_audit": permissions.can_read_audit(user),
    }
    return render(request, "bulk_actions/detail.html", context, status=422 if form is not None and form.errors else 200)


@require_POST
def preview(request: HttpRequest, pk: int) -> HttpResponse:
    """Save the action's options and show what they would do."""
    user, bulk_action = get_visible(request, querysets.visible_bulk_actions, pk)
    form = options_form(bulk_action, bulk_options.load(bulk_action), request.POST, user=user)
    if form is not None and bulk_action.is_draft:
        if not form.is_valid():
            return _render(request, user, bulk_action, form)
        with errors_on(form):
            bulk_actions.preview(bulk_action, form.options(), actor=user, now=timezone.now())
            return redirect("bulk_action", pk=pk)
        return _render(request, user, bulk_action, form)
    return redirect("bulk_action", pk=pk)


@require_POST
@fresh_sign_in_required()
def start(request: HttpRequest, pk: int) -> HttpResponse:
    user, bulk_action = get_visible(request, querysets.visible_bulk_actions, pk)
    with errors_as_messages(request):
        bulk_actions.start(bulk_action, actor=user, now=timezone.now())
    return redirect("bulk_action", pk=pk)


@require_POST
def stop(request: HttpRequest, pk: int) -> HttpResponse:
    """Stop a running action, or discard one that isn't started."""
    user, bulk_action = get_visible(request, querysets.visible_bulk_actions, pk)
    if bulk_action.is_draft:
        bulk_actions.discard(bulk_action, actor=user)
        return redirect("connections")
    bulk_actions.stop(bulk_action, actor=user, now=timezone.now())
    return redirect("bulk_action", pk=pk)
