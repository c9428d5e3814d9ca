"""Sign-in links, created on a connection's page and opened by the mailbox's owner, who may have no account here."""

import secrets

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from connections import pipeline
from connections.access import querysets
from connections.audit import origin
from connections.errors import PortalError
from connections.microsoft import capabilities
from connections.models import Connection, User
from connections.services.connections import sign_in, sign_in_links
from connections.services.people import ownership_transfer, sign_in_limits
from connections.services.policy import permission_drift
from connections.views.form_handling import get_visible

BROWSER_LIFETIME = 3600  # seconds; for a session in which nobody is signed in


@require_POST
def create(request: HttpRequest, pk: int) -> HttpResponse:
    return show_new(request, *get_visible(request, querysets.visible_connections, pk))


def show_new(request: HttpRequest, user: User, connection: Connection) -> HttpResponse:
    """Create a link and show it. It cannot be shown again."""
    link, token = sign_in_links.create(connection, actor=user, now=timezone.now())
    context = {
        "connection": connection,
        "link": link,
        "url": settings.PORTAL_URL + reverse("sign_in_link", args=[token]),
        "minutes": sign_in_links.LIFETIME.seconds // 60,
        "account": _only_account(connection, user),
    }
    return render(request, "sign_in_links/created.html", context)


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest, token: str) -> HttpResponse:
    """Show who requests which access. A POST request continues to Microsoft."""
    try:
        if request.method == "POST":
            return _to_microsoft(request, token)
        opened = sign_in_links.open_link(token, now=timezone.now())
    except PortalError as error:
        response = render(request, "sign_in_links/refused.html", {"error": error}, status=error.status)
    else:
        connection, known = opened.connection, capabilities.CAPABILITIES
        context = {
            "opened": opened,
            "portal": settings.PORTAL_URL,
            "account": _only_account(connection, opened.made_by),
            "capabilities": [known[key] for key in connection.capabilities if key in known],
            "permissions": permission_drift.required_permissions(connection),
            "warnings": capabilities.warnings(
                connection.capabilities, connection.extra_scopes.split(), connection.authentication_type
            ),
        }
        response = render(request, "sign_in_links/open.html", context)
    # The URL is a secret, but "no-referrer" would also hide the form's origin, and Django would reject the POST.
    response["Referrer-Policy"] = "strict-origin"
    return response


@login_not_required
@require_safe
def done(request: HttpRequest) -> HttpResponse:
    return render(request, "sign_in_links/done.html")


def _only_account(connection: Connection, made_by: User) -> str:
    """Return the only account that may sign in; "" if any account of the directory may."""
    return "" if ownership_transfer.may_change_account(connection, actor=made_by) else connection.account_username


def _to_microsoft(request: HttpRequest, token: str) -> HttpResponse:
    """Bind the link to this browser, and redirect to Microsoft. Nobody is signed in to the portal."""
    now = timezone.now()
    sign_in_links.open_link(token, now=now)  # an invalid token must not create a session
    sign_in_limits.begin_at_microsoft(address=origin.get().address, now=now)
    request.session.cycle_key()  # prevents session fixation
    browser = request.session.setdefault(pipeline.LINK_BROWSER, secrets.token_urlsafe(32))
    if not request.user.is_authenticated:
        request.session.set_expiry(BROWSER_LIFETIME)
    opened = sign_in_links.bind_to_browser(token, browser=browser, now=now)
    sign_in.begin(opened.connection, actor=opened.made_by, now=now, by_link=opened.link)
    return pipeline.to_microsoft(request, opened.connection, opened.link)
