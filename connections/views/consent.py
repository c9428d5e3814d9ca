"""Pages about admin consent: asking for it, and coming back from Microsoft."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from connections.access import permissions, querysets, roles
from connections.errors import PortalError, SignInExpired
from connections.forms.consent import ConsentForm
from connections.microsoft import capabilities, clouds
from connections.models import AppRegistration, ConsentLink, User
from connections.services.consent import admin_consent

SHOWN = 10  # latest requests on the page


@dataclass(frozen=True, slots=True)
class Row:
    """One request as the panel shows it."""

    request: ConsentLink
    directory: str  # the tenant's name for our own, otherwise its ID
    link: str  # to be copied and sent; "" if it cannot be used (any more)
    checkable: bool  # "Check now" can find out more
    expired: bool


def panel(user: User, app_registration: AppRegistration) -> dict[str, Any]:
    """Context of consent/_panel.html: how consent stands, the newest request first."""
    now = timezone.now()
    found = app_registration.consent_links.select_related("requested_by", "app_registration__tenant")[:SHOWN]
    may_ask = permissions.can_manage_registry(user)
    cloud = clouds.CLOUDS.get(app_registration.tenant.environment)
    return {
        "app": app_registration,
        "rows": [_row(request, may_ask, now) for request in found],
        "may_ask": may_ask,
        "form": ConsentForm(app_registration=app_registration, auto_id="consent_%s"),
        "roles": admin_consent.expected_roles(app_registration),
        "scopes": capabilities.sign_in_scopes(app_registration.default_capabilities)
        if app_registration.allows_delegated
        else (),
        "portal": cloud.portal if cloud else "",
    }


def _row(request: ConsentLink, may_ask: bool, now: datetime) -> Row:
    waiting = request.state in (ConsentLink.State.OPEN, ConsentLink.State.GRANTED)
    link = admin_consent.consent_url(request, now=now) if may_ask else ""
    tenant = request.app_registration.tenant
    own = request.directory_id in (tenant.tid, tenant.directory_id)
    return Row(
        request,
        tenant.name if own else request.directory_id,
        link,
        checkable=may_ask and waiting and admin_consent.can_be_verified(request),
        expired=request.state == ConsentLink.State.OPEN and request.requested_at <= now - admin_consent.VALID_FOR,
    )


@require_http_methods(["GET", "HEAD", "POST"])
def start(request: HttpRequest, pk: int) -> HttpResponse:
    """How consent stands, with the form that makes a link. POST asks: ``go`` goes there at once, ``check`` looks again."""
    user = roles.current_user(request.user)
    app = get_object_or_404(querysets.visible_app_registrations(user), pk=pk)
    roles.require(permissions.can_read_registry(user), action="Ask an IT admin.")
    if request.method == "POST":
        roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    if "check" in request.POST:
        return _check(request, app, user)
    form = ConsentForm(request.POST or None, app_registration=app, auto_id="consent_%s")
    if request.method == "POST" and form.is_valid():
        try:
            _, url = admin_consent.start(app, directory_id=form.cleaned_data.get("directory_id", ""), actor=user)
        except PortalError as error:
            form.add_error(error.field if error.field in form.fields else None, str(error))
        else:
            return redirect(url) if "go" in request.POST else redirect("consent_start", pk=app.pk)
    context = {"app": app, "consent": panel(user, app) | {"form": form}}
    return render(request, "consent/detail.html", context, status=422 if form.errors else 200)


def _check(request: HttpRequest, app: AppRegistration, user: User) -> HttpResponse:
    number = request.POST.get("check", "")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise Http404
    consent_link = get_object_or_404(app.consent_links, pk=number)
    try:
        verified = admin_consent.verify(consent_link, actor=user, now=timezone.now())
    except PortalError as error:
        messages.error(request, str(error))
    else:
        if verified:
            messages.success(request, f"Consent is verified. {consent_link.cause}")
        else:
            messages.warning(request, "Not yet: Microsoft's tokens do not show the permissions. Try again in a minute.")
    return redirect("consent_start", pk=app.pk)


@login_not_required
@never_cache
@require_safe
def callback(request: HttpRequest) -> HttpResponse:
    """Where Microsoft sends the browser back to.

    A GET that stores something, as an OAuth callback must; it is bound to the one-time state of a link that an IT
    admin made, and to whoever is signed in here. For anybody else it only tells what happened.
    """
    user = request.user if isinstance(request.user, User) else None
    try:
        asked = admin_consent.record_callback(request.META.get("QUERY_STRING", ""), actor=user, now=timezone.now())
    except SignInExpired as error:
        return render(request, "consent/lost.html", {"error": error}, status=error.status)
    trouble = None
    if user is not None and asked.state == ConsentLink.State.GRANTED:
        trouble = _try_to_verify(asked, user)
    context = {
        "asked": asked,
        "app": asked.app_registration,
        "trouble": trouble,
        "state": asked.state,
        "recorded": user is not None,
        "checked_by_itself": admin_consent.can_be_verified(asked),
        "here": request.get_full_path(),
    }
    return render(request, "consent/outcome.html", context)


def _try_to_verify(link: ConsentLink, user: User) -> PortalError | None:
    try:
        admin_consent.verify(link, actor=user, now=timezone.now())
    except PortalError as error:
        return error
    return None
