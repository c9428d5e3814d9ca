"""A button in a success message that undoes the change, for a few seconds.

It sends a POST request to the view for the opposite change, so that the same permissions, checks and audit events
apply.
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
    """Offer to post ``fields`` to ``page`` (a URL name), together with the next message."""
    request.session[_SESSION_KEY] = {
        "url": reverse(page, kwargs=kwargs),
        "fields": [[name, value] for name, values in (fields or {}).items() for value in values],
        "until": timezone.now().timestamp() + SECONDS,
    }


def offered(request: HttpRequest) -> dict[str, Any] | None:
    """Return the URL and fields of the change that can be undone now; None if there is none, or if it is too late."""
    entry: dict[str, Any] | None = request.session.get(_SESSION_KEY)
    return entry if entry is not None and entry["until"] > timezone.now().timestamp() else None
