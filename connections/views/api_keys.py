"""Pages about API keys. A key's text is on the one page that follows its making, and never again."""

from __future__ import annotations

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from connections import access
from connections.errors import PortalError
from connections.forms.api_keys import ApiKeyForm
from connections.services import api_keys
from connections.views import listing
from connections.views.audit import history


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """One's own keys; IT admins and auditors see everybody's."""
    user = access.signed_in(request.user)
    filters = listing.Filters(
        request, search=("name", "prefix", "owner__username"), placeholder="Name, prefix or owner"
    )
    context = {
        "page": listing.page(request, filters.apply(access.visible_keys(user))),
        "filters": filters,
        "sees_all": access.can_read_registry(user),
        "now": timezone.now(),
    }
    return render(request, "api_keys/list.html", context)


@sensitive_variables("text")
@require_http_methods(["GET", "HEAD", "POST"])
def add(request: HttpRequest) -> HttpResponse:
    """Make a key for oneself. The answer to the POST shows it: a redirect would have to carry it somewhere."""
    user = access.signed_in(request.user)
    form = ApiKeyForm(request.POST or None, usable=access.usable_connections(user))
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            made, text = api_keys.issue(
                user,
                name=data["name"],
                scopes=data["scopes"],
                expires_at=data["expires_on"],
                connections=data["connections"],
                networks=data["networks"],
                actor=user,
                now=timezone.now(),
            )
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            return render(
                request, "api_keys/issued.html", {"key": made, "text": text, "portal_url": settings.PORTAL_URL}
            )
    return render(request, "api_keys/add.html", {"form": form}, status=422 if form.is_bound and form.errors else 200)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """What a key may do, when it was used, and what it fetched lately."""
    user = access.signed_in(request.user)
    key = get_object_or_404(access.visible_keys(user), pk=pk)
    context = {
        "key": key,
        "valid": key.is_valid(),
        "only": list(key.connections.values_list("name", flat=True)[:100]),
        "fetches": list(key.fetches.values("connection_name", "minute", "address", "count")[:50]),
        "may_revoke": access.can_revoke_key(user, key),
        "events": history(user, key),
    }
    return render(request, "api_keys/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Say what stops, then make the key worthless."""
    user = access.signed_in(request.user)
    key = get_object_or_404(access.visible_keys(user), pk=pk)
    access.require(access.can_revoke_key(user, key), action="Ask its owner or an IT admin.")
    if request.method == "POST":
        api_keys.revoke(key, actor=user, now=timezone.now())
        messages.success(request, f"{key} is revoked. Its next call is refused.")
        return redirect("api_key", pk=pk)
    return render(request, "api_keys/revoke.html", {"key": key})
