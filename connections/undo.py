"""A button in the message about a change that takes the change back, for a few seconds.

It posts to the page that makes the opposite change, so that the same rights, checks and audit events apply.
"""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

_SESSION_KEY = "undo"
SECONDS = 10


def offer(
    request: HttpRequest, page: str, *, kwargs: dict[str, Any], fields: dict[str, list[str]] | None = None
) -> None:
    """Offer to post ``fields`` to ``page`` (a URL name) together with the message that is shown next."""
    request.session[_SESSION_KEY] = {
        "url": reverse(page, kwargs=kwargs),
        "fields": [[name, value] for name, values in (fields or {}).items() for value in values],
        "until": timezone.now().timestamp() + SECONDS,
    }


def offered(request: HttpRequest) -> dict[str, Any] | None:
    """Return what can be undone now: its url and fields; None if there is nothing, or it is too late."""
    found: dict[str, Any] | None = request.session.get(_SESSION_KEY)
    return found if found is not None and found["until"] > timezone.now().timestamp() else None
