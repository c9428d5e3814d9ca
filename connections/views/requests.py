"""The inbox: requests of all kinds in one list. What is requested and the decision are on the page of each kind."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from connections import keyset
from connections.access import permissions, roles
from connections.services.connections import request_inbox
from connections.views import list_pages

_SHOW = (
    (request_inbox.TO_DECIDE, "To decide"),
    (request_inbox.MINE, "Requested by me"),
    (request_inbox.OPEN, "All open"),
    (request_inbox.DECIDED, "Decided"),
)
_SIZE = 50


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    kinds = [(name, kind.label) for name, kind in request_inbox.KINDS.items()]
    filters = list_pages.Filters(
        request,
        search=("title",),
        placeholder="Connection, change, app registration or person",
        choices=(_choice("show", "Show", _SHOW), _choice("kind", "Type", kinds)),
    )
    chosen = {choice.name: choice.value for choice in filters.choices}
    rows = request_inbox.narrow(user, **chosen, query=filters.query, now=timezone.now())
    page = list_pages.keyset_page(
        request,
        _SIZE,
        decode=lambda text: request_inbox.read_key(keyset.unpack(text, 3)),
        fetch=lambda key, backwards: request_inbox.page(rows, after=key, backwards=backwards, size=_SIZE),
        encode=lambda entry: keyset.pack(entry.key),
        count=lambda: request_inbox.count(rows.values(), list_pages.COUNT_LIMIT),
    )
    context = {"page": page, "filters": filters, "sees_all": permissions.can_read_registry(user)}
    return render(request, "requests/list.html", context)


def _choice(name: str, label: str, options: Any) -> list_pages.Choice:
    """A filter that request_inbox.narrow() applies."""
    unchanged = lambda queryset, value: queryset  # noqa: E731
    return list_pages.Choice(name, label, options, unchanged)


@require_safe
def of_kind(request: HttpRequest, kind: str) -> HttpResponse:
    """The address of a list of one kind, from before there was one list."""
    query = list_pages.query_without_page(request)
    query["kind"] = kind
    return redirect(f"{reverse('requests')}?{query.urlencode()}")
