"""Sign-in links: made on a connection's page, opened by the owner of the mailbox, who may have no account here."""

from __future__ import annotations

import secrets

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from social_core.actions import do_auth
from social_django.utils import load_backend, load_strategy

from connections import pipeline
from connections.access import querysets, roles
from connections.errors import PortalError
from connections.microsoft import backends, capabilities
from connections.models import Connection, User
from connections.services.connections import sign_in, sign_in_links
from connections.services.people import ownership_transfer
from connections.services.policy import permission_drift

BROWSER_LIFETIME = 3600  # seconds the session of a browser lasts in which nobody is signed in


@require_POST
def make(request: HttpRequest, pk: int) -> HttpResponse:
    """Make a link and show it, this once."""
    user = roles.current_user(request.user)
    connection = get_object_or_404(querysets.visible_connections(user), pk=pk)
    link, token = sign_in_links.create(connection, actor=user, now=timezone.now())
    context = {
        "connection": connection,
        "link": link,
        "url": settings.PORTAL_URL + reverse("sign_in_link", args=[token]),
        "minutes": sign_in_links.LIFETIME.seconds // 60,
        "account": _only_account(connection, user),
    }
    return render(request, "sign_in_links/made.html", context)


@login_not_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: HttpRequest, token: str) -> HttpResponse:
    """Say who asks, and for what; POST goes on to Microsoft."""
    try:
        if request.method == "POST":
            return _to_microsoft(request, token)
        opened = sign_in_links.open_link(token, now=timezone.now())
    except PortalError as error:
        answer = render(request, "sign_in_links/over.html", {"error": error}, status=error.status)
    else:
        context = {
            "opened": opened,
            "portal": settings.PORTAL_URL,
            "account": _only_account(opened.connection, opened.made_by),
            **_wishes(opened.connection),
        }
        answer = render(request, "sign_in_links/open.html", context)
    # The address is a secret. "no-referrer" would also hide where the form comes from, and the form would be refused.
    answer["Referrer-Policy"] = "strict-origin"
    return answer


@login_not_required
@require_safe
def done(request: HttpRequest) -> HttpResponse:
    """Where the browser ends up after a sign-in that succeeded."""
    return render(request, "sign_in_links/done.html")


def _only_account(connection: Connection, made_by: User) -> str:
    """The one account that is accepted; empty while any of the directory is."""
    return "" if ownership_transfer.may_change_account(connection, actor=made_by) else connection.account_username


def _wishes(connection: Connection) -> dict[str, object]:
    chosen = [capabilities.CAPABILITIES[key] for key in connection.capabilities if key in capabilities.CAPABILITIES]
    return {
        "capabilities": chosen,
        "permissions": permission_drift.required_permissions(connection),
        "warnings": capabilities.warnings(
            connection.capabilities, connection.extra_scopes.split(), connection.authentication_type
        ),
    }


def _to_microsoft(request: HttpRequest, token: str) -> HttpResponse:
    """Bind the link to this browser and send it to Microsoft. Nobody is signed in here by that, before or after."""
    now = timezone.now()
    sign_in_links.open_link(token, now=now)  # who has none is given no session
    request.session.cycle_key()  # nobody who has planted a session in this browser shares what is in it from now on
    browser = request.session.setdefault(pipeline.LINK_BROWSER, secrets.token_urlsafe(32))
    if not request.user.is_authenticated:
        request.session.set_expiry(BROWSER_LIFETIME)
    opened = sign_in_links.bind_to_browser(token, browser=browser, now=now)
    sign_in.begin(opened.connection, actor=opened.made_by, now=now, by_link=opened.link)
    strategy = load_strategy(request)
    strategy.connection, strategy.link = opened.connection, opened.link
    name = backends.MicrosoftConnect.name
    backend = load_backend(strategy, name, reverse("social:complete", args=[name]))
    answer: HttpResponse = do_auth(backend, user=request.user)
    return answer
