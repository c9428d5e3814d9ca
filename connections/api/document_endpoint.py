"""Sends the OpenAPI document and the reference page to people who are not signed in, without using Django.

If each of these requests took one of Django's threads, a few clients could slow the portal down for everybody. Unusual
requests are left to the views in documents.py, and so is the first request to a process, which builds the documents.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from functools import lru_cache

from django.conf import settings
from django.utils.http import parse_etags

from connections.api import documents
from connections.api.token_endpoint import Application, Headers, Receive, Scope, Send, is_allowed_host, is_secure


class DocumentEndpoint:
    """The ASGI application for both routes. ``headers(is_secure)`` must return the headers that every response has."""

    def __init__(self, django: Application, headers: Callable[[bool], Headers]) -> None:
        self._django = django
        self._headers = lru_cache(maxsize=2)(headers)
        self._turn = asyncio.Lock()

    @staticmethod
    def serves(path: str) -> bool:
        return path in (documents.OPENAPI_PATH, documents.REFERENCE_PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = documents.built(scope["path"]) if _is_plain(scope) else None
        if document is None:
            await self._django(scope, receive, send)
            return
        async with self._turn:
            await asyncio.sleep(0)  # let other requests go first
        await self._send(document, scope, send)

    async def _send(self, document: documents.Document, scope: Scope, send: Send) -> None:
        known = dict(scope["headers"]).get(b"if-none-match", b"").decode("latin-1")
        is_known = known.strip() == "*" or document.etag in (tag.removeprefix("W/") for tag in parse_etags(known))
        headers = [
            (b"content-type", document.content_type.encode()),
            (b"etag", document.etag.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-request-id", str(uuid.uuid4()).encode()),
        ]
        if not is_known:
            headers.append((b"content-length", str(len(document.body)).encode()))
        headers += self._headers(is_secure(scope))
        await send({"type": "http.response.start", "status": 304 if is_known else 200, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if is_known or scope["method"] == "HEAD" else document.body}
        )


def _is_plain(scope: Scope) -> bool:
    """Whether this is a request from someone not signed in, without anything that needs the views."""
    names = [name for name, _ in scope["headers"]]
    values = dict(scope["headers"])
    return (
        scope["method"] in ("GET", "HEAD")
        and not scope["query_string"]
        and names.count(b"host") == 1
        and not {b"cookie", b"transfer-encoding"}.intersection(names)
        and values.get(b"content-length", b"0") == b"0"
        and is_allowed_host(values[b"host"], tuple(settings.ALLOWED_HOSTS))
        and (is_secure(scope) or not settings.SECURE_SSL_REDIRECT)
    )
