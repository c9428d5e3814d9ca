"""A cookie that recognises a browser from which a local account has signed in before (OWASP: device cookies).

The cookie gives no access. It only gives the browser a separate limit, so that failed attempts from elsewhere don't
lock it out.
"""

import secrets

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

from connections.services.people.sign_in_limits import key_of

LIFETIME = 180 * 86400  # seconds
_SALT = "connections.known_browser"


def cookie_name() -> str:
    return "__Host-portal_browser" if settings.SESSION_COOKIE_SECURE else "portal_browser"


def id_for(request: HttpRequest, name: str) -> str:
    """Return this browser's ID if the name has signed in with it before, otherwise ""."""
    try:
        value = signing.loads(request.COOKIES.get(cookie_name(), ""), salt=_SALT, max_age=LIFETIME)
    except signing.BadSignature:
        return ""
    return str(value["id"]) if value["name"] == key_of(name) else ""


def remember(response: HttpResponse, name: str) -> None:
    value = signing.dumps({"name": key_of(name), "id": secrets.token_urlsafe(16)}, salt=_SALT)
    secure = settings.SESSION_COOKIE_SECURE
    response.set_cookie(cookie_name(), value, LIFETIME, secure=secure, httponly=True, samesite="Lax")
