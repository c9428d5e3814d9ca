from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import keyset
from connections.access import permissions, querysets, roles
from connections.errors import PortalError
from connections.forms.api_keys import ApiKeyForm, KeyLimitForm, RotationForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import ApiKey, User
from connections.services.api_keys import api_keys
from connections.views import list_pages
from connections.views.audit import history
from connections.views.form_handling import done, errors_on, get_visible, render_form

_NEVER_EXPIRES = keyset.Part(("name", "pk"), Q(expires_at=None))
SORTS = (
    *list_pages.name_sorts("name"),
    *(
        list_pages.Sort(name, label, (keyset.Part(order, Q(expires_at__isnull=False)), _NEVER_EXPIRES))
        for name, label, order in (
            ("expires", "Expires: soonest first", ("expires_at", "pk")),
            ("-expires", "Expires: latest first", ("-expires_at", "-pk")),
        )
    ),
)


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("name", "prefix", "owner__username"),
        placeholder="Name, prefix or owner",
        model=ApiKey,
        sorts=SORTS,
    )
    sees_all = permissions.can_read_registry(user)
    matches = filters.matches() if sees_all else list_pages.as_one(filters.matches())
    context = {
        "page": list_pages.page(request, querysets.visible_keys(user), order=filters.order, matches=matches),
        "filters": filters,
        "sees_all": sees_all,
        "now": timezone.now(),
    }
    return render(request, "api_keys/list.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    return make_for(request, user, owner=user)


@sensitive_variables("text")
def make_for(request: HttpRequest, user: User, *, owner: User) -> HttpResponse:
    """Create a key for ``owner`` and show it in the response. For a redirect, it would have to be stored."""
    usable, scopes = querysets.usable_connections(owner), permissions.scopes_for(owner)
    form = ApiKeyForm(request.POST or None, usable=usable, scopes=scopes)
    if form.is_valid():
        values = dict(form.cleaned_data)
        expires_at = values.pop("expires_on")
        try:
            key, text = api_keys.issue(owner, **values, expires_at=expires_at, actor=user, now=timezone.now())
        except PortalError as error:
            field = "expires_on" if error.field == "expires_at" else error.field
            form.add_error(field if field in form.fields else None, str(error))
        else:
            return _show_secret(request, key, text)
    context = {"owner": owner, "is_own": owner.pk == user.pk}
    return render_form(request, "api_keys/add.html", form, context)


@sensitive_variables("text")
def _show_secret(request: HttpRequest, key: ApiKey, text: str) -> HttpResponse:
    context = {"key": key, "text": text, "portal_url": settings.PORTAL_URL}
    return render(request, "api_keys/created.html", context)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, key = get_visible(request, querysets.visible_keys, pk)
    is_live = key.revoked_at is None
    context = {
        "key": key,
        "has_previous": key.takes_previous(timezone.now()),
        "only": list(key.connections.values_list("name", flat=True)[:100]),
        "fetches": list(key.fetches.values("connection_name", "minute", "address", "count", "reference")[:50]),
        "calls": api_keys.rate_limit_of(key),
        "previous_still_used": bool(key.previous_used_at and key.rotated_at and key.previous_used_at > key.rotated_at),
        "may_revoke": is_live and permissions.can_revoke_key(user, key),
        "may_rotate": is_live and permissions.can_issue_key(user, key.owner),
        "limit_form": KeyLimitForm(initial={"rate_limit": key.rate_limit})
        if is_live and permissions.can_limit_key(user)
        else None,
        "events": history(user, key),
    }
    return render(request, "api_keys/detail.html", context)


@sensitive_variables("text")
@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def rotate(request: HttpRequest, pk: int) -> HttpResponse:
    user, key = get_visible(request, querysets.visible_keys, pk)
    roles.require(
        permissions.can_issue_key(user, key.owner), action="Ask the owner, or an IT admin for a service account."
    )
    form = RotationForm(request.POST or None)
    if form.is_valid():
        data = form.cleaned_data
        with errors_on(form):
            rotated, text = api_keys.rotate(
                key, overlap=data["overlap"], expires_at=data["expires_on"], actor=user, now=timezone.now()
            )
            return _show_secret(request, rotated, text)
    context = {"key": key, "has_previous": key.takes_previous(timezone.now())}
    return render_form(request, "api_keys/rotate.html", form, context)


@require_POST
def end_previous(request: HttpRequest, pk: int) -> HttpResponse:
    user, key = get_visible(request, querysets.visible_keys, pk)
    api_keys.revoke_previous(key, actor=user, now=timezone.now())
    return done(request, f"The old secret of {key} was revoked.", "api_key", pk=pk)


@require_POST
def limit(request: HttpRequest, pk: int) -> HttpResponse:
    user, key = get_visible(request, querysets.visible_keys, pk)
    roles.require(permissions.can_limit_key(user), action="Ask an IT admin.")
    form = KeyLimitForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Enter a whole number, or leave the field empty.")
        return redirect("api_key", pk=pk)
    api_keys.set_rate_limit(key, per_minute=form.cleaned_data["rate_limit"], actor=user, now=timezone.now())
    return done(request, f"The rate limit of {key} was updated.", "api_key", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    user, key = get_visible(request, querysets.visible_keys, pk)
    roles.require(permissions.can_revoke_key(user, key), action="Ask the owner or an IT admin.")
    if request.method == "POST":
        api_keys.revoke(key, actor=user, now=timezone.now())
        return done(request, f"{key} was revoked.", "api_key", pk=pk)
    return render(request, "api_keys/revoke.html", {"key": key})
