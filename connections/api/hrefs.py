"""URLs in responses: pages of the portal, and routes of the API."""

from django.conf import settings
from django.http import HttpResponse
from django.urls import reverse
from pydantic import BeforeValidator


def page_link(name: str, *arguments: object) -> str:
    return str(settings.PORTAL_URL) + reverse(name, args=arguments)


def link_to(name: str) -> BeforeValidator:
    """Return a validator that turns a primary key (the schema field's alias) into the URL of that object's page
    ``name``.
    """
    return BeforeValidator(lambda pk: page_link(name, pk))


def with_location(response: HttpResponse, operation: str, **arguments: object) -> None:
    response["Location"] = reverse(f"api:{operation}", kwargs=arguments)
