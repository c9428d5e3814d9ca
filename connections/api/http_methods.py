"""HEAD and OPTIONS for every route, and storing the responses to requests with an Idempotency-Key."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse

from connections.api import idempotency

View = Callable[..., HttpResponse]


def with_http_methods(view: View) -> View:
    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "OPTIONS":
            return HttpResponse(status=204, headers={"Allow": _allowed(view(request, *args, **kwargs))})
        is_head = request.method == "HEAD"
        if is_head:
            request.method, request.asks_head = "GET", True  # type: ignore[attr-defined]
        response = None
        try:
            response = view(request, *args, **kwargs)
        finally:
            idempotency.finish(request, response)
        if response.status_code == 405:
            response["Allow"] = _allowed(response)
        return _without_body(request, response) if is_head else response

    return wrapper


def is_head_request(request: HttpRequest) -> bool:
    """Whether this is a HEAD request. The response has no body, so the view must not record that data was read."""
    return getattr(request, "asks_head", False)


def _allowed(response: HttpResponse) -> str:
    """Return the methods in the Allow header of a 405 response, plus those that every route supports."""
    methods = {name.strip() for name in response.get("Allow", "").split(",") if name.strip()}
    return ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))


def _without_body(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    request.method = "HEAD"
    if response.streaming:
        # Don't close the response, which would signal the end of the request. An unread stream holds no resources.
        return HttpResponse(status=response.status_code, headers=dict(response.items()))
    response["Content-Length"] = str(len(response.content))
    response.content = b""
    return response
