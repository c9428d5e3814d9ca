"""The OpenAPI document and the reference page. Building them takes seconds, so each process does it once.

Both can be read without signing in, so they are kept in memory and sent with an ETag.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe
from ninja import NinjaAPI

from connections.api.docs_page import render_reference

T = TypeVar("T")

PAGE = "api/reference.html"
OPENAPI_PATH, REFERENCE_PATH = "/api/v1/openapi.json", "/api/v1/docs"


@dataclass(frozen=True, slots=True)
class Document:
    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, text: str, content_type: str) -> "Document":
        body = text.encode()
        return cls(body, f"{content_type}; charset=utf-8", f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def response(self, request: HttpRequest) -> HttpResponse:
        """Return the document, or 304 if the client has it already."""
        response = HttpResponse(self.body, content_type=self.content_type)
        response["ETag"], response["Cache-Control"] = self.etag, "no-cache"
        return get_conditional_response(request, etag=self.etag, response=response) or response


_lock = threading.RLock()
_kept: dict[tuple[str, str], Any] = {}  # by PORTAL_URL, which the examples contain, and name


def _once(name: str, build: Callable[[], T]) -> T:
    with _lock:
        key = (settings.PORTAL_URL, name)
        if key not in _kept:
            _kept[key] = build()
        document: T = _kept[key]
        return document


def built(path: str) -> Document | None:
    """Return the document at ``path`` for people not signed in; None if there is none or it has not been built yet."""
    document: Document | None = _kept.get((settings.PORTAL_URL, path))
    return document


def openapi(api: NinjaAPI) -> Document:
    def build() -> Document:
        return Document.of(json.dumps(api.get_openapi_schema(), cls=DjangoJSONEncoder), "application/json")

    return _once(OPENAPI_PATH, build)


def reference(api: NinjaAPI) -> SafeString:
    """Return the main part of the reference page."""
    return _once("reference", lambda: render_reference(json.loads(openapi(api).body)))


def page(api: NinjaAPI) -> Document:
    """Return the reference page for people who are not signed in."""
    return _once(
        REFERENCE_PATH, lambda: Document.of(render_to_string(PAGE, {"reference": reference(api)}), "text/html")
    )


def openapi_view(api: NinjaAPI) -> Callable[[HttpRequest], HttpResponse]:
    @require_safe
    def view(request: HttpRequest) -> HttpResponse:
        return openapi(api).response(request)

    return view


def reference_view(api: NinjaAPI) -> Callable[[HttpRequest], HttpResponse]:
    @require_safe
    def view(request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated:
            return render(request, PAGE, {"reference": reference(api)})
        response = page(api).response(request)
        patch_vary_headers(response, ["Cookie"])
        return response

    return view
