from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections.access import permissions, querysets
from connections.access import roles as access_roles
from connections.errors import PortalError
from connections.forms.service_accounts import ServiceAccountForm
from connections.fresh_sign_in import fresh_sign_in_required
from connections.models import Share
from connections.models.accounts import AUDITORS, IT_ADMINS
from connections.models.connections import without_tokens
from connections.services.people import service_accounts
from connections.views import api_keys, list_pages
from connections.views.audit import history
from connections.views.form_handling import done, errors_on, get_visible, render_form


def _require(allowed: bool) -> None:
    access_roles.require(allowed, cause="Only IT admins can manage service accounts.", action="Ask an IT admin.")


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    user = access_roles.current_user(request.user)
    filters = list_pages.Filters(
        request,
        search=("first_name", "purpose"),
        placeholder="Name or purpose",
        sorts=list_pages.name_sorts("first_name"),
    )
    live = Q(api_keys__revoked_at=None) & (Q(api_keys__expires_at=None) | Q(api_keys__expires_at__gt=timezone.now()))
    service_accounts = querysets.visible_service_accounts(user).annotate(keys=Count("api_keys", filter=live))
    context = {
        "page": list_pages.page(request, filters.apply(service_accounts), order=filters.order),
        "filters": filters,
        "may_manage": permissions.can_manage_service_accounts(user),
    }
    return render(request, "service_accounts/list.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add(request: HttpRequest) -> HttpResponse:
    user = access_roles.current_user(request.user)
    _require(permissions.can_manage_service_accounts(user))
    form = ServiceAccountForm(request.POST or None, people=querysets.people(), initial={"responsible": user})
    if form.is_valid():
        with errors_on(form):
            account = service_accounts.create(**form.cleaned_data, actor=user, now=timezone.now())
            messages.success(request, f"{account} was added. Share connections with it and create an API key.")
            return redirect("service_account", pk=account.pk)
    return render_form(request, "service_accounts/form.html", form)


@require_safe
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    shares = Share.objects.active().filter(person=account).select_related("connection__owner")
    context = {
        "account": account,
        "roles": list(account.groups.values_list("name", flat=True)),
        "keys": list(account.api_keys.order_by("revoked_at", "name", "pk")[:100]),
        "shares": list(without_tokens(shares).order_by("connection__name", "pk")[:100]),
        "owned": list(account.connections.order_by("name", "pk")[:100]),
        "may_manage": permissions.can_manage_service_accounts(user),
        "now": timezone.now(),
        "events": history(user, account),
    }
    return render(request, "service_accounts/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def edit(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    _require(permissions.can_manage_service_accounts(user))
    roles = set(account.groups.values_list("name", flat=True))
    initial = {
        "purpose": account.purpose,
        "responsible": account.responsible,
        "admin": IT_ADMINS in roles,
        "auditor": AUDITORS in roles,
    }
    form = ServiceAccountForm(request.POST or None, people=querysets.people(), named=False, initial=initial)
    if form.is_valid():
        with errors_on(form):
            service_accounts.change(account, **form.cleaned_data, actor=user, now=timezone.now())
            return done(request, f"{account} was updated.", "service_account", pk=pk)
    return render_form(request, "service_accounts/form.html", form, {"account": account})


@require_http_methods(["GET", "HEAD", "POST"])
@fresh_sign_in_required(also_to_read=True)
def add_key(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    _require(permissions.can_issue_key(user, account))
    return api_keys.make_for(request, user, owner=account)


@require_POST
def disable(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    service_accounts.disable(account, actor=user, now=timezone.now())
    return done(request, f"{account} is disabled. Its API keys don't work.", "service_account", pk=pk)


@require_POST
def enable(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    service_accounts.enable(account, actor=user, now=timezone.now())
    return done(request, f"{account} is enabled. Its API keys work again.", "service_account", pk=pk)


@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: HttpRequest, pk: int) -> HttpResponse:
    user, account = get_visible(request, querysets.visible_service_accounts, pk)
    _require(permissions.can_manage_service_accounts(user))
    trouble: PortalError | None = None
    if request.method == "POST":
        try:
            service_accounts.remove(account, actor=user, now=timezone.now())
            return done(request, f"{account} was removed.", "service_accounts")
        except PortalError as error:
            trouble = error
    context = {
        "account": account,
        "keys": account.api_keys.filter(revoked_at=None).count(),
        "owned": account.connections.count(),
        "trouble": trouble,
    }
    return render(request, "service_accounts/remove.html", context, status=409 if trouble else 200)
