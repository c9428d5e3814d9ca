"""The Idempotency-Key header of POST requests; what is kept is in services/stored_replies.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponse
from django.urls import resolve
from django.utils import timezone

from connections.access import roles
from connections.api import authentication
from connections.errors import InvalidInput, NotAllowed
from connections.models import ApiKey, StoredReply
from connections.services.api_keys import idempotency

HEADER = "Idempotency-Key"
LONGEST = 255
_HEADERS = ("Content-Type", "ETag", "Location", "Cache-Control")  # of an answer, kept with it

View = Callable[..., Any]


def idempotent(scope: str) -> Callable[[View], View]:
    """Let an operation that needs ``scope`` be repeated with the same Idempotency-Key: it is then done once."""

    def decorate(view: View) -> View:
        @wraps(view)
        def once(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            key = authentication.require_scope(request, scope)
            text = request.headers.get(HEADER, "").strip()
            if not text:
                return view(request, *args, **kwargs)
            if len(text) > LONGEST:
                raise InvalidInput(f"An {HEADER} has at most {LONGEST} characters.", field=HEADER)
            claimed = idempotency.claim(key, idempotency_key=text, request=_same(request), now=timezone.now())
            if isinstance(claimed, idempotency.Reply):
                _require_sight(key, claimed, kwargs.get("ref"))
                return _again(claimed)
            request.claimed_reply = claimed  # type: ignore[attr-defined]
            return view(request, *args, **kwargs)

        # django-ninja looks types up by name in the module of the function it gets, which is this one.
        once.__signature__ = inspect.signature(view, eval_str=True)  # type: ignore[attr-defined]
        once.is_idempotent = True  # type: ignore[attr-defined]
        return once

    return decorate


def finish(request: HttpRequest, answer: HttpResponse | None) -> None:
    """Keep the finished answer of a claimed request, or give the claim up if it was refused or broke (None)."""
    claimed: StoredReply | None = getattr(request, "claimed_reply", None)
    if claimed is None:
        return
    if answer is None or not 200 <= answer.status_code < 300:
        idempotency.release(claimed)
        return
    headers = {name: answer[name] for name in _HEADERS if name in answer}
    idempotency.store_reply(
        claimed, idempotency.Reply(answer.status_code, answer.content.decode(), headers, _standing(claimed.key))
    )


def _same(request: HttpRequest) -> bytes:
    return b"\n".join((str(request.method).encode(), request.get_full_path().encode("utf-8", "replace"), request.body))


def _standing(key: ApiKey) -> str:
    """What decides, besides single connections, what a key may see."""
    who = roles.person(key.owner)
    return f"admin={who.is_admin} auditor={who.is_auditor} narrowed={key.only_chosen}"


def _require_sight(key: ApiKey, reply: idempotency.Reply, ref: str | None) -> None:
    """An answer tells what was to be seen then. Raises what a new request would, or NotAllowed."""
    if reply.standing != _standing(key):
        raise NotAllowed(
            "This was answered before, and the rights of the key or its owner have changed since.",
            action="Read what there is now with a new request.",
        )
    if ref is None and "Location" in reply.headers:
        ref = resolve(urlsplit(reply.headers["Location"]).path).kwargs.get("ref")
    if ref is not None:
        authentication.find_connection(key, str(ref))


def _again(reply: idempotency.Reply) -> HttpResponse:
    answer = HttpResponse(reply.body, status=reply.status)
    for name, value in reply.headers.items():
        answer[name] = value
    answer["Idempotency-Replayed"] = "true"
    return answer
