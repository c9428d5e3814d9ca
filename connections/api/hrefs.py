"""Addresses that answers carry: pages of the portal, and routes of the API."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponse
from django.urls import reverse


def page_link(name: str, *arguments: object) -> str:
    """The address of a page of the portal."""
    return str(settings.PORTAL_URL) + reverse(name, args=arguments)


def with_location(response: HttpResponse, operation: str, **arguments: object) -> None:
    """Say where the thing that was just made can be read."""
    response["Location"] = reverse(f"api:{operation}", kwargs=arguments)
