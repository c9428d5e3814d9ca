"""How a session began, and the guard for views that need a sign-in of the last minutes.

Whoever finds an unlocked browser can read, but not issue keys, change credentials, policy or roles, or export.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from connections import audit
from connections.session_store import SIGN_IN

# Session entries: when the person last proved who they are (Unix time), and the form that waits for the next proof.
FRESH_AT = "fresh_at"
HELD_FORM = "held_form"
LARGEST_HELD_FORM = 20_000  # characters; a larger one must be filled in again
# Fields that are not kept, because sessions are stored unencrypted. tests/test_fresh_sign_in.py compares the forms.
_SECRET_FIELD = re.compile(r"secret|password|private|certificate|pfx|token|code|passkey|url|key$", re.IGNORECASE)

View = Callable[..., HttpResponseBase]


def begin(request: HttpRequest, *, method: str, proved_at: datetime | None, second_factor: bool = False) -> None:
    """Note how the person signed in, and when they proved who they are (None: unknown, so not recently)."""
    request.session[SIGN_IN] = {
        "at": timezone.now().timestamp(),
        "method": method,
        "second_factor": second_factor,
        "address": audit.origin.get().address,
        "browser": browser_name(request.headers.get("User-Agent", "")),
    }
    request.session[FRESH_AT] = proved_at.timestamp() if proved_at else 0


def renew(request: HttpRequest, *, proved_at: datetime) -> None:
    """Note that the signed-in person has just proved who they are. The session gets a new key."""
    request.session.cycle_key()
    request.session[FRESH_AT] = proved_at.timestamp()


def note_second_factor(request: HttpRequest) -> None:
    """Note that the signed-in person has given, or just set up, a second factor."""
    request.session[SIGN_IN] = {**request.session.get(SIGN_IN, {}), "second_factor": True}


def lacks_second_factor(request: HttpRequest) -> bool:
    """Whether the session began with a password alone."""
    sign_in = request.session.get(SIGN_IN, {})
    return sign_in.get("method") != "microsoft" and not sign_in.get("second_factor")


def is_fresh(request: HttpRequest) -> bool:
    proved_at = request.session.get(FRESH_AT) or 0
    return bool(timezone.now().timestamp() - proved_at < settings.FRESH_SIGN_IN_MINUTES * 60)


def fresh_sign_in_required(*, also_to_read: bool = False) -> Callable[[View], View]:
    """Ask the person to sign in again before a POST, and with ``also_to_read`` before the page with the form."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if (also_to_read or request.method == "POST") and not is_fresh(request):
                return ask(request)
            return view(request, *args, **kwargs)

        guarded.needs_fresh_sign_in = True  # type: ignore[attr-defined]
        return guarded

    return decorate


def ask(request: HttpRequest) -> HttpResponse:
    """Lead to the page that asks for another sign-in. What was typed is kept, apart from secrets and files."""
    request.session.pop(HELD_FORM, None)
    if request.method == "POST":
        fields = [
            [name, value]
            for name, values in request.POST.lists()
            for value in values
            if name != "csrfmiddlewaretoken" and not _SECRET_FIELD.search(name)
        ]
        if sum(len(name) + len(str(value)) for name, value in fields) <= LARGEST_HELD_FORM:
            request.session[HELD_FORM] = {"path": request.get_full_path(), "fields": fields}
    url = f"{reverse('confirm_identity')}?{urlencode({'next': request.get_full_path()})}"
    if "HX-Request" in request.headers:
        return HttpResponse(status=204, headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)


_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def browser_name(user_agent: str) -> str:
    """Return the browser in words, for example "Firefox on Windows"."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "Unknown browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser
