"""Middleware for request ids (in logs and the audit trail), security headers and error pages."""

import uuid
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import add_never_cache_headers
from social_django.middleware import SocialAuthExceptionMiddleware

from connections import audit, client_address, denial_logging
from connections.access import roles
from connections.errors import NotAllowed, PortalError, SignInCancelled
from connections.models import User

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


def request_context(get_response: GetResponse) -> GetResponse:
    """Give the request an id for logs, audit events and error pages; at its end, record what was denied."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request_id = str(uuid.uuid4())
        request.META["PORTAL_REQUEST_ID"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        token = audit.origin.set(audit.Origin(request_id, client_address.client_address(request)))
        denials = roles.denied.set([])
        try:
            response = get_response(request)
            for error in roles.denied.get():
                denial_logging.record(request, error)
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
    """Forbid caching, so that the back button shows no pages after signing out."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if not response.has_header("Cache-Control"):
            add_never_cache_headers(response)
        return response

    return middleware


class PortalErrorMiddleware:
    """Turns uncaught PortalErrors and Django's empty 405 responses into pages."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.method == "GET" and response.status_code == 405 and not response.content:
            # People end up here if they were signed out when they sent a form, and then signed in again.
            page = render(request, "405.html", status=405)
            page["Allow"] = response["Allow"]
            return page
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, PortalError) or isinstance(error, Http404):
            return None
        if isinstance(error, NotAllowed):
            roles.note_denied(error)
        return render(request, "error.html", {"error": error}, status=error.status)


class SignInErrorMiddleware(SocialAuthExceptionMiddleware):  # type: ignore[misc]
    """Turns failed Microsoft sign-ins into pages; see connections/pipeline.py."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        from connections import pipeline  # imported late, because social-auth needs the models
        from connections.views import consent_requests

        ended = pipeline.explain(request, exception)
        if ended is None:
            return None
        if ended.by_link:
            return render(request, "sign_in_links/refused.html", {"error": ended.error}, status=ended.error.status)
        context: dict[str, Any] = {"error": ended.error, "connection": ended.connection}
        # Microsoft's page "Need admin approval" looks like any other cancelled sign-in.
        may_need_consent = ended.needs_consent or isinstance(ended.error, SignInCancelled)
        if ended.connection is not None and may_need_consent and isinstance(request.user, User):
            context["asking"] = consent_requests.panel(request.user, ended.connection, offer=ended.needs_consent)
        return render(request, "accounts/sign_in_failed.html", context, status=ended.error.status)
