from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from connections.access import permissions, querysets, roles
from connections.errors import PortalError, SignInExpired
from connections.forms.consent import ConsentForm
from connections.microsoft import capabilities, clouds
from connections.models import AppRegistration, ConsentLink, Tenant, User
from connections.services.consent import admin_consent
from connections.views.form_handling import errors_as_messages, errors_on, get_visible

SHOWN = 10  # latest links shown on the page
State = ConsentLink.State


def panel(user: User, app_registration: AppRegistration) -> dict[str, Any]:
    """Return the context for consent/_panel.html, with the newest link first."""
    now = timezone.now()
    newest = app_registration.consent_links.select_related("requested_by", "app_registration__tenant")[:SHOWN]
    links = list(newest)
    tenants = Tenant.objects.filter(
        environment=app_registration.environment, tid__in=[link.directory_id for link in links]
    )
    names = dict(tenants.values_list("tid", "name"))
    may_ask = permissions.can_manage_registry(user)
    cloud = clouds.CLOUDS.get(app_registration.tenant.environment)
    delegated = app_registration.allows_delegated
    return {
        "app": app_registration,
        "rows": [_row(link, may_ask, names, now) for link in links],
        "may_ask": may_ask,
        "form": ConsentForm(app_registration=app_registration, auto_id="consent_%s"),
        "roles": admin_consent.expected_roles(app_registration),
        "scopes": capabilities.sign_in_scopes(app_registration.default_capabilities) if delegated else (),
        "portal": cloud.portal if cloud else "",
    }


def _row(link: ConsentLink, may_ask: bool, names: dict[str, str], now: datetime) -> dict[str, Any]:
    tenant = link.app_registration.tenant
    is_own = link.directory_id in (tenant.tid, tenant.directory_id)
    waiting = link.state in (State.OPEN, State.GRANTED, State.PARTIAL)
    return {
        "link": link,
        "directory": tenant.name if is_own else names.get(link.directory_id, link.directory_id),
        "url": admin_consent.consent_url(link, now=now) if may_ask else "",  # "" if the link can't be used
        "awaits_proof": link.state == State.GRANTED and not link.cause,  # no token has confirmed the permissions yet
        "checkable": may_ask and waiting and admin_consent.can_be_verified(link),
        "expired": link.state == State.OPEN and link.requested_at <= now - admin_consent.VALID_FOR,
    }


@require_http_methods(["GET", "HEAD", "POST"])
def start(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the consents and a form for a new link. ``go`` also opens the new link; ``check`` verifies an old one."""
    user, app = get_visible(request, querysets.visible_app_registrations, pk)
    roles.require(permissions.can_read_registry(user), action="Ask an IT admin.")
    if request.method == "POST":
        roles.require(permissions.can_manage_registry(user), action="Ask an IT admin.")
    if "check" in request.POST:
        return _check(request, app, user)
    form = ConsentForm(request.POST or None, app_registration=app, auto_id="consent_%s")
    if request.method == "POST" and form.is_valid():
        with errors_on(form):
            _, url = admin_consent.start(app, directory_id=form.cleaned_data.get("directory_id", ""), actor=user)
            return redirect(url) if "go" in request.POST else redirect("consent_start", pk=app.pk)
    context = {"app": app, "consent": panel(user, app) | {"form": form}}
    return render(request, "consent/detail.html", context, status=422 if form.errors else 200)


def _check(request: HttpRequest, app: AppRegistration, user: User) -> HttpResponse:
    number = request.POST.get("check", "")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise Http404
    link = get_object_or_404(app.consent_links, pk=number)
    with errors_as_messages(request, level=messages.ERROR):
        if admin_consent.verify(link, actor=user, now=timezone.now()):
            messages.success(request, f"Consent is verified. {link.cause}")
        else:
            messages.warning(request, "Microsoft's tokens don't include the permissions yet. Try again in a minute.")
    return redirect("consent_start", pk=app.pk)


@login_not_required
@never_cache
@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """Handle the redirect back from Microsoft. Each link can be used only once.

    As an OAuth callback, this GET request changes data. It needs no sign-in, but the one-time state of a link that an
    IT admin created. To people who are not signed in, the page shows only the outcome.
    """
    user = request.user if isinstance(request.user, User) else None
    try:
        link = admin_consent.record_callback(request.META.get("QUERY_STRING", ""), actor=user, now=timezone.now())
    except SignInExpired as error:
        return render(request, "consent/lost.html", {"error": error}, status=error.status)
    problem = None
    if link.state == State.GRANTED:
        try:
            admin_consent.verify(link, actor=user, now=timezone.now())
        except PortalError as error:
            problem = error
    context = {
        "link": link,
        "app": link.app_registration,
        "problem": problem,
        "state": link.state,
        "is_signed_in": user is not None,
        "checked_by_itself": admin_consent.can_be_verified(link),
        "missing": link.missing.split(),
        "can_retry": link.state in (State.DECLINED, State.FAILED) and link.answered_at is None,
    }
    return render(request, "consent/outcome.html", context)
