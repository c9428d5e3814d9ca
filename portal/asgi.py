"""The ASGI application. It handles token requests itself and passes most others to Django, in threads."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

from portal.wsgi import application as django_application  # sets up Django, which the imports below need

# isort: split

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.security import SecurityMiddleware

from connections.api.document_endpoint import DocumentEndpoint
from connections.api.token_endpoint import TokenEndpoint, is_secure
from connections.api.token_waiting import RunInThread
from connections.middleware import content_security_policy
from portal.access_log import access_log
from portal.body_limits import limit_bodies
from portal.key_announcer import KeyAnnouncer
from portal.liveness import Liveness
from portal.warm_up import warm_up
from portal.wsgi_bridge import Receive, Scope, Send, WSGIBridge


class Portal:
    """The ASGI application of one web process."""

    def __init__(self, *, threads: int, run_in_thread: RunInThread | None = None) -> None:
        bridge = WSGIBridge(django_application, threads=threads, run_in_thread=run_in_thread)
        django = limit_bodies(bridge, lambda scope: headers_of_every_answer(is_secure(scope)))
        token_endpoint = TokenEndpoint(django, headers_of_every_answer, run_in_thread=run_in_thread)
        document_endpoint = DocumentEndpoint(django, headers_of_every_answer)
        liveness = Liveness(headers_of_every_answer)
        self.stop_waiting = token_endpoint.stop_waiting

        @access_log
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if _is_from_local_https_proxy(scope):
                scope["scheme"] = "https"
            application = django
            if token_endpoint.serves(scope["path"]):
                application = token_endpoint
            elif document_endpoint.serves(scope["path"]):
                application = document_endpoint
            elif liveness.serves(scope):
                application = liveness
            await application(scope, receive, send)

        self._answer = answer
        self._tracing: ModuleType | None = None
        if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
            from portal import tracing

            tracing.start("web")
            self._answer, self._tracing = tracing.trace_requests(answer), tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            await asyncio.to_thread(warm_up)
            announcer = KeyAnnouncer("web")
            announcer.start()
            # Announce the keys before anything is encrypted, so that other processes don't mistake a new key for a lost
            # one.
            await asyncio.to_thread(announcer.has_announced.wait, 5)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.to_thread(announcer.stop)
            if self._tracing:
                await asyncio.to_thread(self._tracing.stop)
            await send({"type": "lifespan.shutdown.complete"})


def headers_of_every_answer(is_secure: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers that Django's middleware adds to every API response."""
    request = HttpRequest()
    request._get_scheme = lambda: "https" if is_secure else "http"  # type: ignore[attr-defined]

    def nothing(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    secured: Any = SecurityMiddleware(XFrameOptionsMiddleware(nothing))
    response = content_security_policy(secured)(request)
    del response["Content-Type"]
    response["Vary"] = "Cookie"
    return [(name.lower().encode(), value.encode()) for name, value in response.items()]


def _is_from_local_https_proxy(scope: Scope) -> bool:
    """Whether a proxy on this machine received the request over https. TRUSTED_PROXIES decides for all other proxies."""
    # A unix socket has no client address, but the client is always on this machine.
    if scope.get("client") and scope["client"][0] not in ("127.0.0.1", "::1"):
        return False
    return (b"x-forwarded-proto", b"https") in scope["headers"]


application = Portal(threads=settings.WEB_THREADS)
