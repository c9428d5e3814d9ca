"""Steps shared by the pages that ask for a password: checking it, limiting attempts, and completing the sign-in."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme

from connections import fresh_sign_in, known_browser
from connections.access import roles
from connections.audit import origin
from connections.forms.accounts import PasswordSignIn
from connections.models import User
from connections.services.people import accounts, sign_in_limits


def check_password(request: HttpRequest, data: Mapping[str, Any]) -> tuple[PasswordSignIn, datetime | None]:
    """Check name and password. Return the form, and the time until which attempts are refused (None if they aren't)."""
    form, now = PasswordSignIn(request, data), timezone.now()
    name = data.get("username", "").replace("\x00", "").strip()
    if not name or not data.get("password"):
        form.is_valid()
        return form, None
    device, address = known_browser.id_for(request, name), origin.get().address
    try:
        attempt = sign_in_limits.begin(name, address=address, device=device, now=now)
    except sign_in_limits.TooManyAttempts as refusal:
        return form, refusal.until
    if form.is_valid():
        sign_in_limits.succeed(attempt)
        return form, None
    return form, sign_in_limits.fail(attempt, reason="wrong_password", now=now)


def complete_sign_in(request: HttpRequest, user: User, *, next_url: str, second_factor: str = "") -> HttpResponse:
    """Sign in a person who has passed all checks, and redirect to ``next_url``."""
    auth.login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    request.session.set_expiry(None)  # a sign-in link may have shortened it
    now = timezone.now()
    fresh_sign_in.begin(request, method="password", proved_at=now, second_factor=bool(second_factor))
    accounts.signed_in(user, actor=user, method="password", second_factor=second_factor)
    sign_in_limits.remember_address(user.username, address=origin.get().address, now=now)
    response = HttpResponseRedirect(next_url)
    known_browser.remember(response, user.username)
    return response


def confirmed(request: HttpRequest) -> None:
    """Record that the signed-in person has just confirmed their identity with their password and any second factor."""
    fresh_sign_in.renew(request, proved_at=timezone.now())
    user = roles.current_user(request.user)
    accounts.confirmed(user, actor=user, method="password")


def paused(request: HttpRequest, until: datetime) -> HttpResponse:
    """Return the page that says when the person can try again."""
    context = {"again_at": until, "with_microsoft": microsoft_is_configured()}
    page = render(request, "accounts/locked_out.html", context, status=429)
    page["Retry-After"] = str(max(1, round((until - timezone.now()).total_seconds())))
    return page


def microsoft_is_configured() -> bool:
    return bool(settings.LOGIN_MICROSOFT["tenant"] and settings.LOGIN_MICROSOFT["client_id"])


def next_url(request: HttpRequest, default: str | None = None) -> str:
    """Return the URL to open after signing in. It must be on this site; otherwise, the default is returned."""
    url = request.POST.get("next") or request.GET.get("next") or ""
    if url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure()):
        return url
    return reverse("home") if default is None else default
