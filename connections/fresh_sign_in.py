"""How a session began, and the guard for views that require a sign-in in the last few minutes.

Anyone who finds an unlocked browser can read. They cannot issue keys, export, or change credentials, policy or roles.
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

# Session keys: when the person last confirmed their identity (Unix time), and the form that waits for the next time.
FRESH_AT = "fresh_at"
HELD_FORM = "held_form"
LARGEST_HELD_FORM = 20_000  # characters; the person must fill in a larger form again
# Fields that are not kept, because sessions are not encrypted. tests/test_fresh_sign_in.py checks this for all forms.
_SECRET_FIELD = re.compile(r"secret|password|private|certificate|pfx|token|code|passkey|url|key$", re.IGNORECASE)

View = Callable[..., HttpResponseBase]


def begin(request: HttpRequest, *, method: str, proved_at: datetime | None, second_factor: bool = False) -> None:
    """Store how the person signed in, and when they proved their identity (None: unknown, so not recently)."""
    request.session[SIGN_IN] = {
        "at": timezone.now().timestamp(),
        "method": method,
        "second_factor": second_factor,
        "address": audit.origin.get().address,
        "browser": browser_name(request.headers.get("User-Agent", "")),
    }
    request.session[FRESH_AT] = proved_at.timestamp() if proved_at else 0


def renew(request: HttpRequest, *, proved_at: datetime) -> None:
    """Store that the signed-in person has just proved their identity. The session gets a new key."""
    request.session.cycle_key()
    request.session[FRESH_AT] = proved_at.timestamp()


def note_second_factor(request: HttpRequest) -> None:
    """Store that the signed-in person has used, or just set up, a second factor."""
    request.session[SIGN_IN] = {**request.session.get(SIGN_IN, {}), "second_factor": True}


def lacks_second_factor(request: HttpRequest) -> bool:
    """Whether the session began with a password but no second factor."""
    sign_in = request.session.get(SIGN_IN, {})
    return sign_in.get("method") != "microsoft" and not sign_in.get("second_factor")


def is_fresh(request: HttpRequest) -> bool:
    proved_at = request.session.get(FRESH_AT) or 0
    return bool(timezone.now().timestamp() - proved_at < settings.FRESH_SIGN_IN_MINUTES * 60)


def fresh_sign_in_required(*, also_to_read: bool = False) -> Callable[[View], View]:
    """Return a decorator that requires a recent sign-in for POST requests.

    With ``also_to_read``, it is required for other requests, too, such as the page with the form.
    """

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
    """Redirect to the page that asks for another sign-in. The submitted form is kept, apart from secrets and files."""
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
    """Return the browser's name, for example "Firefox on Windows"."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "Unknown browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser
