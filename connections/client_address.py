"""The client address of a request, behind any number of trusted proxies."""

from __future__ import annotations

import ipaddress

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str | None:
    """The client's address: behind TRUSTED_PROXIES proxies, the entry that the outermost one added. None: unknown."""
    hops: list[str] = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if hop.strip()]
    trusted: int = settings.TRUSTED_PROXIES
    if trusted and len(hops) >= trusted:
        return _address(hops[-trusted])
    return _address(str(request.META.get("REMOTE_ADDR") or ""))


def _address(text: str) -> str | None:
    """The address without the port that some proxies append; None if it is invalid."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None
