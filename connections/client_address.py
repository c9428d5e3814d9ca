"""Finds a client's address behind any number of trusted proxies."""

import ipaddress
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """Return the client's address; None if it is unknown.

    With TRUSTED_PROXIES, this is the entry of X-Forwarded-For that the outermost trusted proxy added.
    """
    meta = request.META
    return forwarded_address(meta.get("HTTP_X_FORWARDED_FOR", ""), str(meta.get("REMOTE_ADDR") or ""))


def forwarded_address(forwarded_for: str, peer: str) -> str | None:
    """Return the client's address from the value of X-Forwarded-For and the connection's address."""
    trusted: int = settings.TRUSTED_PROXIES
    if trusted:
        hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
        if len(hops) >= trusted:
            return _address(hops[-trusted])
    return _address(peer)


@lru_cache(maxsize=1024)
def _address(text: str) -> str | None:
    """Return the address without the port that some proxies add; None if it is invalid."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None
