"""Middleware for all requests under /api/, including unknown routes: size limits, rate-limit headers, problems."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from connections.api import authentication, problems

PREFIX = "/api/"
MAX_BODY = 256 * 1024  # bytes
MAX_QUERY = 4096  # characters

GetResponse = Callable[[HttpRequest], HttpResponseBase]


def limit_request_size(get_response: GetResponse) -> GetResponse:
    """Reject oversized requests, add the state of the key's rate limit, and turn all errors into problem responses."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(PREFIX):
            return get_response(request)
        response = _refuse_oversized(request) or get_response(request)
        if response.status_code >= 400 and not problems.is_problem(response):
            response = problems.problem_for_status(response, request_id=request.META.get("PORTAL_REQUEST_ID", ""))
        limit = authentication.rate_limit_state(request)
        if limit is not None:
            for name in ("limit", "remaining", "reset"):
                response[f"RateLimit-{name.title()}"] = str(getattr(limit, name))
        return response

    return middleware


def _refuse_oversized(request: HttpRequest) -> HttpResponse | None:
    if len(request.META.get("QUERY_STRING", "")) > MAX_QUERY:
        return problems.problem(
            414, "address_too_long", "The query string is too long.", f"At most {MAX_QUERY} characters."
        )
    if "HTTP_TRANSFER_ENCODING" in request.META and not request.META.get("CONTENT_LENGTH"):
        return problems.problem(411, "length_required", "The length of the body is missing.", "Send Content-Length.")
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    if not length.isdigit() or len(length) > 18 or int(length) > MAX_BODY:
        return problems.problem(413, "too_large", "The body is too large.", f"At most {MAX_BODY // 1024} kB.")
    return None
