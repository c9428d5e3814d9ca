"""Middleware for request IDs (in logs and the audit trail), security headers and error pages."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import tzinfo
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.contrib import messages
from django.db import DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from social_django.middleware import SocialAuthExceptionMiddleware

from connections import audit, client_address, denial_logging, fields, fresh_sign_in, time_zones, tracing
from connections.access import roles
from connections.errors import NotAllowed, PortalError, SignInCancelled, UnreadableSecret
from connections.microsoft import resources
from connections.models import User
from connections.services.operations import running_keys, secret_check
from connections.services.people import second_factors
from connections.session_store import SessionStore

GetResponse = Callable[[HttpRequest], HttpResponse]

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # The Connect form's response redirects to Microsoft, so form-action cannot be 'self' alone.
        "form-action 'self' https: {sandbox}",
    )
)


PROBES = ("/healthz", "/readyz", "/metrics")


def let_probes_name_any_host(get_response: GetResponse) -> GetResponse:
    """Accept any Host header from probes. They use an address of this machine instead of the portal's name."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info in PROBES:
            request.get_host = lambda: urlsplit(settings.PORTAL_URL).netloc  # type: ignore[method-assign]
        return get_response(request)

    return middleware


def request_context(get_response: GetResponse) -> GetResponse:
    """Give the request an ID for logs, audit events and error pages. When it ends, record what was denied."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request_id = str(uuid.uuid4())
        request.META["PORTAL_REQUEST_ID"] = request_id
        if (request.encoding or "utf-8").lower() != "utf-8":
            request.encoding = "utf-8"  # other encodings can contain half of a surrogate pair, which cannot be stored
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        token = audit.origin.set(audit.Origin(request_id, client_address.client_address(request)))
        denials = roles.denied.set([])
        try:
            response = get_response(request)
            if request.resolver_match is not None:
                tracing.set_route(request.method, f"/{request.resolver_match.route}")
            for error in roles.denied.get():
                denial_logging.record(request, error)
            if fields.altered:
                secret_check.report_noted(now=timezone.now())
        finally:
            roles.denied.reset(denials)
            audit.origin.reset(token)
        response["X-Request-ID"] = request_id
        return response

    return middleware


def content_security_policy(get_response: GetResponse) -> GetResponse:

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.setdefault(
            "Content-Security-Policy", _POLICY.format(sandbox=settings.MICROSOFT_SANDBOX_URL or "").strip()
        )
        response.setdefault("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
        return response

    return middleware


def no_store(get_response: GetResponse) -> GetResponse:
    """Forbid caching, so that the back button shows no pages after the user has signed out."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not response.has_header("Cache-Control"):
            add_never_cache_headers(response)
        return response

    return middleware


class CompressPages(GZipMiddleware):
    """Compresses HTML pages, with padding of random length against BREACH (breachattack.com).

    That attack guesses a secret from the length of pages that also repeat the attacker's input. Responses that may show
    a secret are therefore not compressed: those to POST requests, those of the API (tokens), and the page with the key
    of a new authenticator app. Django masks CSRF tokens differently on each page.
    """

    SHOWS_SECRET = frozenset(("second_factor_add_app",))

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        match = request.resolver_match
        is_page = response.get("Content-Type", "").startswith("text/html") and not request.path_info.startswith("/api/")
        if request.method != "GET" or not is_page or (match and match.view_name in self.SHOWS_SECRET):
            return response
        return super().process_response(request, response)


def note_session_use(get_response: GetResponse) -> GetResponse:
    """Keep a session alive while it is used. Requests that a page sends automatically don't count as use."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if isinstance(request.session, SessionStore) and "HX-Request" not in request.headers:
            request.session.note_use(timezone.now())
        return response

    return middleware


def use_time_zone(get_response: GetResponse) -> GetResponse:
    """Show times in the time zone that the user chose, or in the browser's, which portal.js stores in a cookie."""

    def middleware(request: HttpRequest) -> HttpResponse:
        # Without a session, no user could have chosen a time zone. The API's responses are in UTC.
        if settings.SESSION_COOKIE_NAME not in request.COOKIES or request.path.startswith("/api/"):
            return get_response(request)
        with timezone.override(_time_zone_of(request)):
            return get_response(request)

    return middleware


def _time_zone_of(request: HttpRequest) -> tzinfo:
    chosen = ""
    with suppress(DatabaseError):  # the view will report the error, and its page shows no times
        chosen = getattr(request.user, "time_zone", "")
    return time_zones.find(chosen or request.COOKIES.get(time_zones.COOKIE, ""))


class RequireSecondFactor:
    """Redirects operators who signed in with only a password, until they have set up a second factor."""

    ALLOWED = frozenset(
        (
            "security",
            "second_factor_add_app",
            "second_factor_add_passkey",
            "recovery_codes",
            "second_factor",
            "confirm_identity",
            "confirm_continue",
            "social:begin",
            "social:complete",
            "sign_out",
            "healthz",
            "readyz",
            "metrics",
        )
    )

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        match = request.resolver_match
        # The API has no sessions.
        if request.path_info.startswith("/api/") or (match is not None and match.view_name in self.ALLOWED):
            return None
        user = request.user
        if not isinstance(user, User) or not second_factors.is_required(user):
            return None
        if not fresh_sign_in.lacks_second_factor(request):
            return None
        return redirect("confirm_identity" if second_factors.has_any(user) else "security")


class PortalErrorMiddleware:
    """Turns uncaught PortalErrors and Django's empty 405 responses into pages."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.method == "GET" and response.status_code == 405 and not response.content:
            # This happens to people who were signed out when they sent a form, and then signed in again.
            page = render(request, "405.html", status=405)
            page["Allow"] = response["Allow"]
            return page
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, PortalError) or isinstance(error, Http404):
            return None
        # Imported late, because it needs the models.
        from connections.services.policy.four_eyes import SecondPersonNeeded
        from connections.views import change_requests

        if isinstance(error, SecondPersonNeeded):
            try:
                return change_requests.ask(request, error)
            except PortalError as refused:
                error = refused
        if isinstance(error, NotAllowed):
            roles.note_denied(error)
        if isinstance(error, UnreadableSecret):
            error = running_keys.explain(error)
        return render(request, "error.html", {"error": error}, status=error.status)


class SignInErrorMiddleware(SocialAuthExceptionMiddleware):  # type: ignore[misc]
    """Turns failed Microsoft sign-ins into pages; see connections/pipeline.py."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        from connections import pipeline  # imported late, because social-auth needs the models
        from connections.views import consent_requests

        ended = pipeline.explain(request, exception)
        if ended is None:
            return None
        if ended.resource and ended.connection is not None:
            return self._without_resource(request, ended)
        if ended.by_link:
            return render(request, "sign_in_links/refused.html", {"error": ended.error}, status=ended.error.status)
        context: dict[str, Any] = {"error": ended.error, "connection": ended.connection}
        # A return from Microsoft's page "Need admin approval" looks like any other cancelled sign-in.
        may_need_consent = ended.needs_consent or isinstance(ended.error, SignInCancelled)
        if ended.connection is not None and may_need_consent and isinstance(request.user, User):
            context["asking"] = consent_requests.panel(request.user, ended.connection, offer=ended.needs_consent)
        return render(request, "accounts/sign_in_failed.html", context, status=ended.error.status)

    @staticmethod
    def _without_resource(request: HttpRequest, ended: Any) -> HttpResponse:
        """Redirect to the connection, which works for all other resources. Its page offers to try this one again."""
        if ended.by_link:
            return redirect("sign_in_link_done")
        text = f"You're connected, but without access to {resources.label(ended.resource)}. {ended.error.cause}"
        messages.warning(request, text)
        return redirect("connection", pk=ended.connection.pk)
