"""What happened that concerns the signed-in person: the list behind the bell."""

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from connections.access import querysets, roles
from connections.models import Notification
from connections.services.notifications import notifications
from connections.views import list_pages
from connections.views.form_handling import get_visible

_BIGGEST_ID = 2**63 - 1


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    unread = list_pages.Choice("show", "Show", [("unread", "Unread")], _unread)
    filters = list_pages.Filters(request, choices=(unread,))
    page = list_pages.page(request, filters.apply(querysets.visible_notifications(user)), order=("-pk",))
    return render(request, "notifications/list.html", {"page": page, "filters": filters})


def _unread(queryset: QuerySet[Notification], value: str) -> QuerySet[Notification]:
    return queryset.filter(read_at=None)


@require_POST
def open_page(request: HttpRequest, pk: int) -> HttpResponse:
    """Mark a notification as read, and go to the page that it is about."""
    user, notification = get_visible(request, querysets.visible_notifications, pk)
    notifications.mark_read(notification, actor=user, now=timezone.now())
    is_ours = notification.path.startswith("/") and url_has_allowed_host_and_scheme(notification.path, None)
    return HttpResponseRedirect(notification.path) if is_ours else redirect("notifications")


@require_POST
def read(request: HttpRequest, pk: int) -> HttpResponse:
    user, notification = get_visible(request, querysets.visible_notifications, pk)
    notifications.mark_read(notification, actor=user, now=timezone.now())
    return redirect("notifications")


@require_POST
def read_all(request: HttpRequest) -> HttpResponse:
    """Mark everything as read up to the newest notification that the page showed."""
    upto = request.POST.get("upto", "")
    if upto.isascii() and upto.isdigit() and len(upto) < 20 and int(upto) <= _BIGGEST_ID:
        notifications.mark_all_read(upto=int(upto), actor=roles.current_user(request.user), now=timezone.now())
    return redirect("notifications")
