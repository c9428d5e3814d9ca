"""What every route does alike: HEAD and OPTIONS, and keeping the answers of requests that may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse

from connections.api import idempotency

View = Callable[..., HttpResponse]


def with_http_methods(view: View) -> View:
    """The view with everything a client expects of HTTP."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "OPTIONS":
            return _options(view(request, *args, **kwargs))
        is_head = request.method == "HEAD"
        if is_head:
            request.method, request.asks_head = "GET", True  # type: ignore[attr-defined]
        answer = None
        try:
            answer = view(request, *args, **kwargs)
        finally:
            idempotency.finish(request, answer)
        if answer.status_code == 405:
            answer["Allow"] = _allowed(answer)
        return _without_body(request, answer) if is_head else answer

    return answering


def is_head_request(request: HttpRequest) -> bool:
    """Whether only the headers are asked for: nothing is taken away then, and nothing is recorded as taken."""
    return getattr(request, "asks_head", False)


def _allowed(answer: HttpResponse) -> str:
    """The methods a 405 names, with those that every route knows."""
    named = {name.strip() for name in answer.get("Allow", "").split(",") if name.strip()}
    return ", ".join(sorted(named | {"OPTIONS"} | ({"HEAD"} if "GET" in named else set())))


def _without_body(request: HttpRequest, answer: HttpResponse) -> HttpResponse:
    request.method = "HEAD"
    if answer.streaming:
        # Not closed, which would say that the request is over; a stream that was never begun holds nothing.
        told = HttpResponse(status=answer.status_code, headers=dict(answer.items()))
    else:
        told = answer
        told["Content-Length"] = str(len(answer.content))
        told.content = b""
    return told


def _options(answer: HttpResponse) -> HttpResponse:
    told = HttpResponse(status=204)
    told["Allow"] = _allowed(answer)
    return told
