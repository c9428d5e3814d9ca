"""The Idempotency-Key header of POST requests. services/api_keys/idempotency.py stores the responses."""

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
_STORED_HEADERS = ("Content-Type", "ETag", "Location", "Cache-Control")

View = Callable[..., Any]


def idempotent(scope: str) -> Callable[[View], View]:
    """Return a decorator that runs an operation once per Idempotency-Key and replays its response after that.

    The calling key must have ``scope``.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            key = authentication.require_scope(request, scope)
            idempotency_key = request.headers.get(HEADER, "").strip()
            if not idempotency_key:
                return view(request, *args, **kwargs)
            if len(idempotency_key) > LONGEST:
                raise InvalidInput(f"An {HEADER} has at most {LONGEST} characters.", field=HEADER)
            claim = idempotency.claim(
                key, idempotency_key=idempotency_key, request=_content(request), now=timezone.now()
            )
            if isinstance(claim, idempotency.Reply):
                _require_still_visible(key, claim, kwargs.get("ref"))
                headers = claim.headers | {"Idempotency-Replayed": "true"}
                return HttpResponse(claim.body, status=claim.status, headers=headers)
            request.claimed_reply = claim  # type: ignore[attr-defined]
            return view(request, *args, **kwargs)

        # Without this, django-ninja would look up the annotations' names in this module instead of the view's.
        wrapper.__signature__ = inspect.signature(view, eval_str=True)  # type: ignore[attr-defined]
        wrapper.is_idempotent = True  # type: ignore[attr-defined]
        return wrapper

    return decorate


def finish(request: HttpRequest, response: HttpResponse | None) -> None:
    """Store the response to a claimed request, or release the claim if it failed (None if the view raised an error)."""
    claim: StoredReply | None = getattr(request, "claimed_reply", None)
    if claim is None:
        return
    if response is None or not 200 <= response.status_code < 300:
        idempotency.release(claim)
        return
    headers = {name: response[name] for name in _STORED_HEADERS if name in response}
    body = response.content.decode()
    idempotency.store_reply(claim, idempotency.Reply(response.status_code, body, headers, _rights(claim.key)))


def _content(request: HttpRequest) -> bytes:
    """Return the content that must be identical in two requests with the same Idempotency-Key."""
    return b"\n".join((str(request.method).encode(), request.get_full_path().encode("utf-8", "replace"), request.body))


def _rights(key: ApiKey) -> str:
    """Return the roles and limits that determine what a key may see, apart from access to individual connections."""
    person = roles.person(key.owner)
    return f"admin={person.is_admin} auditor={person.is_auditor} narrowed={key.only_chosen}"


def _require_still_visible(key: ApiKey, reply: idempotency.Reply, ref: str | None) -> None:
    """Raise NotAllowed or an error of find_connection if the key may no longer see the stored reply."""
    if reply.standing != _rights(key):
        raise NotAllowed(
            "This request was already answered, but the permissions of the key or its owner have changed since.",
            action="Read the current state with a new request.",
        )
    if ref is None and "Location" in reply.headers:
        ref = resolve(urlsplit(reply.headers["Location"]).path).kwargs.get("ref")
    if ref is not None:
        authentication.find_connection(key, str(ref))
