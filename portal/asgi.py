"""The web process's application: the token call is answered here, everything else by Django in threads."""

from __future__ import annotations

import os

from portal.access_log import Application, access_log
from portal.wsgi import application as django_application
from portal.wsgi_bridge import Receive, Scope, Send, WSGIBridge


def create_application(*, threads: int) -> Application:
    """The ASGI application of one process."""
    django = WSGIBridge(django_application, threads=threads)

    @access_log
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if _is_from_local_https_proxy(scope):
            scope["scheme"] = "https"
        await django(scope, receive, send)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    return application


def _is_from_local_https_proxy(scope: Scope) -> bool:
    """Whether a proxy on this machine says that it was called by https; TRUSTED_PROXIES is about all others."""
    if not scope.get("client") or scope["client"][0] not in ("127.0.0.1", "::1"):
        return False
    return (b"x-forwarded-proto", b"https") in scope["headers"]


application = create_application(threads=int(os.environ.get("WEB_THREADS", "8")))
