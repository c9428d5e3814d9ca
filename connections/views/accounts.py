"""Sign-in, sign-out and the account page."""

from typing import Any
from urllib.parse import urlencode

from axes.helpers import get_cool_off
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from social_django.models import UserSocialAuth

from connections.access import querysets, roles
from connections.errors import NotAllowed
from connections.forms.accounts import PasswordSignIn
from connections.models import User
from connections.services.people import accounts


@login_not_required
@never_cache
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in with Microsoft, or with a local password (django-axes limits failed attempts)."""
    if request.user.is_authenticated:
        return HttpResponseRedirect(_next_url(request))
    form = PasswordSignIn(request, request.POST or None)
    if request.method == "POST":
        if form.is_valid():
            user = form.get_user()
            auth.login(request, user)
            request.session.set_expiry(None)  # following a sign-in link may have shortened it
            accounts.signed_in(user, actor=user, method="password")
            return HttpResponseRedirect(_next_url(request))
        username = request.POST.get("username", "").replace("\x00", "").strip()
        if username and request.POST.get("password"):
            locked = getattr(request, "axes_locked_out", False)
            accounts.sign_in_failed(username, reason="locked_out" if locked else "wrong_password")
    context = {"form": form, "with_microsoft": microsoft_is_configured(), "next": _next_url(request, default="")}
    return render(request, "accounts/sign_in.html", context, status=422 if form.errors else 200)


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """Replace the admin site's sign-in page with the portal's, which is rate-limited and audited."""
    if request.user.is_authenticated:
        if request.user.is_active and request.user.is_staff:
            return HttpResponseRedirect(_next_url(request, default=reverse("admin:index")))
        raise NotAllowed("Only operators of the portal may open the admin site.", action="Ask an operator.")
    query = urlencode({"next": _next_url(request, default=reverse("admin:index"))})
    return HttpResponseRedirect(f"{reverse('sign_in')}?{query}")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    accounts.signed_out(user, actor=user)
    auth.logout(request)
    return redirect("sign_in")


@require_safe
def profile(request: HttpRequest) -> HttpResponse:
    user = roles.current_user(request.user)
    signs_in_with_microsoft = UserSocialAuth.objects.filter(user=user, provider="microsoft").exists()
    context = {
        "with_microsoft": signs_in_with_microsoft,
        "with_password": user.has_usable_password(),
        "role_source": _role_source(user, signs_in_with_microsoft),
        "events": list(querysets.visible_events(user).filter(actor=user).order_by("-pk")[:20]),
    }
    return render(request, "accounts/profile.html", context)


def locked_out(
    request: HttpRequest, response: HttpResponse | None = None, credentials: Any = None, *args: Any
) -> HttpResponse:
    """Tell the user when they can try again. Called by django-axes after too many wrong passwords."""
    cool_off = get_cool_off(request)
    context = {"again_at": timezone.now() + cool_off, "with_microsoft": microsoft_is_configured()}
    page = render(request, "accounts/locked_out.html", context, status=429)
    page["Retry-After"] = str(int(cool_off.total_seconds()))
    return page


def microsoft_is_configured() -> bool:
    return bool(settings.LOGIN_MICROSOFT["tenant"] and settings.LOGIN_MICROSOFT["client_id"])


def _role_source(user: User, signs_in_with_microsoft: bool) -> str:
    if user.is_superuser:
        return "This is an operator's account (superuser), which always has the rights of an IT admin."
    if signs_in_with_microsoft:
        return "It follows your roles and groups in Microsoft Entra, and is read again at every sign-in."
    return "It was given to this local account by an operator of the portal."


def _next_url(request: HttpRequest, default: str | None = None) -> str:
    """Return the page to open after signing in, which must be on this site."""
    url = request.POST.get("next") or request.GET.get("next") or ""
    if url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure()):
        return url
    return reverse("home") if default is None else default
